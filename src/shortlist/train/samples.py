"""Texts of many languages and scripts to check an exported model with; written for this purpose, no collection's data."""

from __future__ import annotations

from typing import Final

# A question, a passage that answers it, and one of the same topic that does not.
TRIPLES: Final[tuple[tuple[str, str, str], ...]] = (
    (
        "How many people live in Berlin?",
        "Berlin, the capital of Germany, has about 3.7 million inhabitants and is the largest city of the country.",
        "Berlin is known for its museums, its lakes and the remains of the wall that divided it until 1989.",
    ),
    (
        "Wie hoch ist die Zugspitze?",
        "Mit 2962 Metern ist die Zugspitze der höchste Berg Deutschlands.",
        "Auf die Zugspitze führen drei Seilbahnen; im Winter wird dort Ski gefahren.",
    ),
    (
        "¿Cuándo se inauguró el canal de Panamá?",
        "El canal de Panamá se inauguró el 15 de agosto de 1914 y une el Atlántico con el Pacífico.",
        "Por el canal de Panamá pasan cada año más de trece mil barcos de todo el mundo.",
    ),
    (
        "Какая река самая длинная в Европе?",
        "Самая длинная река Европы — Волга: её длина 3530 километров.",
        "На Волге стоят Казань, Самара и Волгоград; река судоходна почти на всём протяжении.",
    ),
    (
        "ما هي عاصمة المغرب؟",
        "الرباط هي عاصمة المملكة المغربية وتقع على ساحل المحيط الأطلسي.",
        "تشتهر مدينة مراكش بأسواقها القديمة وبساحة جامع الفنا.",
    ),
    (
        "भारत का सबसे लंबा बाँध कौन सा है?",
        "महानदी पर बना हीराकुंड बाँध भारत का सबसे लंबा बाँध है; उसकी लंबाई लगभग 26 किलोमीटर है।",
        "महानदी छत्तीसगढ़ और ओडिशा से होकर बंगाल की खाड़ी में गिरती है।",
    ),
    (
        "长江有多长？",
        "长江全长约6300公里，是亚洲最长的河流，也是世界第三长的河流。",
        "长江流域盛产水稻，上海位于长江的入海口。",
    ),
    (
        "富士山の高さは何メートルですか。",
        "富士山は標高3776メートルで、日本で最も高い山です。",
        "富士山は2013年に世界文化遺産に登録され、毎年多くの人が登ります。",
    ),
    (
        "한글은 누가 만들었습니까?",
        "한글은 조선의 제4대 왕인 세종대왕이 1443년에 만들었다.",
        "한글날은 10월 9일이며 대한민국의 공휴일이다.",
    ),
    (
        "แม่น้ำสายใดไหลผ่านกรุงเทพมหานคร",
        "แม่น้ำเจ้าพระยาไหลผ่านกรุงเทพมหานครก่อนลงสู่อ่าวไทย",
        "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทยและมีวัดสวยงามมากมาย",
    ),
    (
        "Mlima mrefu zaidi barani Afrika ni upi?",
        "Kilimanjaro, wenye urefu wa mita 5895, ndio mlima mrefu zaidi barani Afrika.",
        "Watalii wengi hufika Tanzania kila mwaka kuona wanyama wa Serengeti.",
    ),
    (
        "తెలంగాణ రాజధాని ఏది?",
        "తెలంగాణ రాష్ట్ర రాజధాని హైదరాబాద్.",
        "హైదరాబాద్ బిర్యానీ దేశమంతటా ప్రసిద్ధి చెందింది.",
    ),
)


def texts() -> list[str]:
    """Every question and passage, and all of them as one text that is longer than most models read."""
    found = [text for triple in TRIPLES for text in triple]
    return [*found, " ".join(found)]


def groups() -> list[tuple[str, list[str]]]:
    """Each question with the passages of its own triple and of the next one, and with one that is too long to be read whole."""
    pairs = []
    for i, (question, *own) in enumerate(TRIPLES):
        pairs.append((question, [*own, *TRIPLES[(i + 1) % len(TRIPLES)][1:]]))
    return [*pairs, (TRIPLES[0][0], [" ".join(texts()[:-1])])]
