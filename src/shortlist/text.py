"""Plain text at the door: cleaning, language detection, sentences and passages.

Nothing here needs a library. Detection reads the script first, which settles most languages; languages that share a
script are told apart by a vote of their commonest short words and of letters that few of them use.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Final

from shortlist._native import Ballot
from shortlist.errors import BadInput

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")

_DETECT_CHARS = 500
"""Characters read by `detect_language`: 1,500 gave the same accuracy on passages."""


def clean(text: str, where: str = "") -> str:
    """`text` with control characters replaced by spaces (tab, line feed and carriage return stay).

    `where` names the origin ("passage 17", "corpus.jsonl:3") in the error. Raises BadInput if `text` is not a str or
    holds a lone surrogate, which no encoding can store.
    """
    place = f"{where}: " if where else ""
    if not isinstance(text, str):
        raise BadInput(f"{place}got {type(text).__name__}, expected a str. Decode bytes and convert numbers to text first.")
    if text.isprintable():
        return text
    lone = None if text.isascii() else _SURROGATES.search(text)
    if lone:
        raise BadInput(
            f"{place}lone surrogate U+{ord(lone.group()):04X} at character {lone.start()}: this is not valid Unicode text. "
            "Decode the source with errors='replace', or repair it."
        )
    return _CONTROLS.sub(" ", text)


# --- language -------------------------------------------------------------------------------------------------------

_SCRIPT_RANGES: tuple[tuple[int, int, str], ...] = (
    (0x0041, 0x005A, "Latn"), (0x0061, 0x007A, "Latn"), (0x00AA, 0x00AA, "Latn"), (0x00C0, 0x024F, "Latn"),
    (0x0370, 0x03FF, "Grek"), (0x0400, 0x052F, "Cyrl"), (0x0531, 0x058F, "Armn"), (0x05D0, 0x05F2, "Hebr"),
    (0x0620, 0x06FF, "Arab"), (0x0750, 0x077F, "Arab"), (0x0900, 0x097F, "Deva"), (0x0980, 0x09FF, "Beng"),
    (0x0A00, 0x0A7F, "Guru"), (0x0A80, 0x0AFF, "Gujr"), (0x0B00, 0x0B7F, "Orya"), (0x0B80, 0x0BFF, "Taml"),
    (0x0C00, 0x0C7F, "Telu"), (0x0C80, 0x0CFF, "Knda"), (0x0D00, 0x0D7F, "Mlym"), (0x0D80, 0x0DFF, "Sinh"),
    (0x0E01, 0x0E7F, "Thai"), (0x0E80, 0x0EFF, "Laoo"), (0x0F00, 0x0FFF, "Tibt"), (0x1000, 0x109F, "Mymr"),
    (0x10A0, 0x10FF, "Geor"), (0x1100, 0x11FF, "Hang"), (0x1200, 0x139F, "Ethi"), (0x1780, 0x17FF, "Khmr"),
    (0x1E00, 0x1EFF, "Latn"), (0x1F00, 0x1FFF, "Grek"), (0x3005, 0x3007, "Hani"), (0x3041, 0x30FF, "Kana"),
    (0x3130, 0x318F, "Hang"), (0x31F0, 0x31FF, "Kana"), (0x3400, 0x4DBF, "Hani"), (0x4E00, 0x9FFF, "Hani"),
    (0xAC00, 0xD7AF, "Hang"), (0xF900, 0xFAFF, "Hani"), (0xFB1D, 0xFB4F, "Hebr"), (0xFB50, 0xFDFF, "Arab"),
    (0xFE70, 0xFEFC, "Arab"), (0xFF21, 0xFF5A, "Latn"), (0xFF66, 0xFF9D, "Kana"), (0x20000, 0x323AF, "Hani"),
)  # fmt: skip
"""First and last code point of each block of letters, with its script (ISO 15924), in ascending order."""
_STARTS = [first for first, _, _ in _SCRIPT_RANGES]

_ENDING_WEIGHT, _LETTER_WEIGHT = 0.4, 0.5
"""What an ending and a letter say in `_vote`, a common word saying 1."""

_COMPANY_WEIGHT, _MOST_COMPANY = 0.2, 1000
"""`detect_languages`: a language of n in 1,000 other texts has 0.2 * ln(1 + n) more votes, 1.4 if all are in it."""

_DENSE = {"Hani": 3, "Kana": 3, "Hang": 3}
"""One such character says about as much as this many letters (a Chinese translation has a third of the characters)."""

_ONLY_LANGUAGE = {
    "Grek": "el", "Armn": "hy", "Hebr": "he", "Beng": "bn", "Guru": "pa", "Gujr": "gu", "Orya": "or", "Taml": "ta",
    "Telu": "te", "Knda": "kn", "Mlym": "ml", "Sinh": "si", "Thai": "th", "Laoo": "lo", "Tibt": "bo", "Mymr": "my",
    "Geor": "ka", "Hang": "ko", "Ethi": "am", "Khmr": "km", "Hani": "zh", "Kana": "ja",
}  # fmt: skip
"""Scripts that settle the language, or nearly so (Hebrew script: he rather than yi; Ethiopic: am rather than ti)."""

_COMMON_WORDS: dict[str, dict[str, str]] = {
    "Latn": {
        "en": "i my your me him her them us do done had could should some any all no yes just very more than then "
        "here there now up out over under between during may also the of and to in is was for that with as on "
        "by it from at are this be or which an his were has have not their but what who when how where why "
        "does did can will would been its they you he she we if about into",
        "de": "ich du ihr wir mich mir dich dir mein meine dein sein ihre ihren habe hast bin bist kein keine hier "
        "da dort nichts etwas alles wenn dass daß mehr sehr gut muss der die das und in von den des im mit "
        "ist zu auf für als eine ein dem auch wurde werden sich nicht bei aus nach wie wird einer er sie es "
        "sind durch über zur zum was wer wo wann warum welche welcher welches hat war haben einen oder an am "
        "kann um so noch nur",
        "fr": "je tu j m t me te moi mon ma mes ton notre votre leur suis es as ai avons avez peut fait faire bien "
        "tout rien très cela ça c si le la les de des du et en un une est dans que qui pour par sur au aux "
        "avec plus ce se ne pas il elle son sa ses ou été sont comme cette quel quelle quels quand où comment "
        "pourquoi combien dont mais nous vous à fut l d s qu n ont était entre après",
        "es": "yo me te le les mi tu está estoy soy eres ella él esto eso ese aquí nada algo todo tengo tiene puede "
        "hacer quiero usted ellos nos muy bien si ya qué el la los las de del que en y a un una por con para "
        "se es su al lo como más o fue no sus son este esta pero entre cuando desde también quién cuál cuándo "
        "dónde cómo cuántos cuántas hasta sobre ser ha sin era hay años había",
        "it": "ho hai hanno abbiamo sono sei siamo mi ti ci vi io tu lui lei noi mio mia questo questa quello tutto "
        "niente molto perché può fare bene solo il la lo le gli di del della dei delle che e è in un una per "
        "con da dal nel nella si non come anche al alla più ma fu su i cosa chi quale quando dove quanti "
        "quali dell nell all l essere stato ha tra era suo sua ne",
        "pt": "eu tu você vocês me te lhe meu minha isto isso aqui nada tudo tenho tem pode fazer quero eles elas "
        "nós bem só estou estava há o a os as de do da dos das que e em um uma para com por no na nos nas não "
        "se é foi mais como ao seu sua ou são ser pelo pela quando também qual quem onde quais quantos "
        "quantas porque até ele ela está muito já sobre entre foram à",
        "ca": "el la els les de del dels i en un una que per amb és va al a no més seu seva com són ser aquest "
        "aquesta també però quan qui quin quina on des fins entre l d ha van pel pels o molt",
        "gl": "o a os as de do da dos das que e en un unha para con por no na nos nas non se é foi máis como ao seu "
        "súa ou son ser polo pola cando tamén cal quen onde ata isto ten pero moi",
        "nl": "ik jij je we wij mij jou mijn jouw ben bent zijn heb hebt hier niets iets alles zeer goed moet wil "
        "ga u ons de het een van en in is dat op te voor met die niet aan er om ook als maar bij door werd "
        "naar uit over wat wie waar wanneer welke hoe waarom of tot deze dan nog wordt worden heeft hij ze "
        "was hun geen kan veel na",
        "af": "die van en in is het dat wat nie vir op met te was deur by hy sy ek ons hulle ook as aan om een hoe "
        "waar wanneer watter kan word sal maar nog of uit toe hierdie",
        "sv": "jag du mig dig min din är inte ni dem denna dessa här inget något allt mycket måste hade gör kommer "
        "vill ska bara nu än lite och i att det som en på av för med den till har om ett var de så från vid "
        "men kan sig eller där han hon vad vem när hur vilken vilket vilka under efter också blev mot även "
        "skulle finns år detta in över",
        "no": "jeg du meg deg min din ikke dere dem denne disse her ingenting noe alt mye må hadde gjør kommer vil "
        "skal bare nå enn litt hva og i det som en på er av for med til den har om et var de så fra ved men "
        "kan seg eller der han hun hvem når hvor hvordan hvilken hvilket hvilke etter også ble mot skulle "
        "dette år ut over sin blir vi",
        "da": "jeg du mig dig min din ikke dem denne disse her intet noget alt meget må havde gør kommer vil skal "
        "kun nu end lidt og i det som en på er af for med til den har om et var de så fra ved men kan sig "
        "eller der han hun hvad hvem hvornår hvor hvordan hvilken hvilket hvilke efter også blev mod skulle "
        "dette år ud over sin bliver vi nogle",
        "is": "og í að er á það sem ég ekki við um en var til þá með af fyrir hann hún þau eru þetta frá hvað hver "
        "hvar hvenær hvernig eða eins þess þar sér hafa",
        "fi": "minä sinä hän me te he onko sinun minun tuo nämä nuo häntä olen olet olemme ovatko voi voisi missä "
        "mistä mihin vuoden vuonna kuinka oletko koska siellä täällä kaikki mitään ja on oli että ei se ovat "
        "mutta kun myös joka jonka sekä tai kuin niin mitä mikä kuka milloin miten minkä ole hänen sen ne "
        "olla jossa jotka en vain nyt mukaan kanssa jo tämä siitä sitä ollut",
        "et": "ja on oli et ei see ta kes mis kus millal kuidas mille aga ka kui või oma nende selle seda siis mida "
        "pole aastal tema nad ning veel välja üle olla ma sa kas",
        "hu": "én te ő mi ti ők vagyok vagy vagyunk nincs itt ott ez azok ezek nekem engem semmi valami minden kell "
        "nagyon jó lehet tudom akarok hogyan miért a az és hogy nem is egy volt meg mint de el csak van ki "
        "mikor hol melyik hány milyen már még után pedig amely ezt azt ha lett be fel nagy szerint akkor sem "
        "voltak ami",
        "pl": "ja ty on ona my mnie mi mój moja jestem jesteś są mam masz tu tam nic coś wszystko bardzo dobrze "
        "musi chcę dlaczego bo tak być w i na z się do nie to jest że o jak po za od przez dla był była było "
        "który która które oraz przy tym ale co kto gdzie kiedy czy jaki jaka jakie tego jego jej ich ma "
        "tylko także może już przed lub roku został ile",
        "cs": "jsem jsi jste jsme mám má byl bych není ten ta tu tím mi mě můj moje ho mu jí nás nám vás už pak nic "
        "něco všechno proč kolik moc tady svůj svou a v se na je že s z do o i to k ve pro za jako by po si "
        "jsou byla bylo který která které od nebo ale co kdo kde kdy jak jaký jaká jaké také tak jeho její "
        "jejich při roce jen aby před mezi",
        "sk": "som ste sme mám má bol tento táto mi ma môj moja ho mu nás už nič niečo prečo koľko tu svoj a v sa "
        "na je že s z do o i to k vo pre za ako by po si sú bola bolo ktorý ktorá ktoré od alebo ale čo kto "
        "kde kedy aký aká aké tiež tak jeho jej ich pri roku len aby nie pred medzi",
        "hr": "i u je na se da su za od s kao koji koja koje iz o bio bila bilo ali ili do sa te što tko gdje kada "
        "kako nije po samo još biti godine njegov njih prema između sve može",
        "sl": "in je v na se da so za od z kot ki pa o bil bila bilo ali do s tudi kaj kdo kje kdaj kako ni po samo "
        "še biti leta njegov jih pri med vse lahko iz",
        "ro": "eu tu el ea noi voi ei îmi mi te îți meu mea sunt ești este am ai avem aici acolo nimic ceva tot "
        "foarte bine trebuie vreau de ce și în a la cu pe o un din că pentru care mai nu se au fost sau ca al "
        "ale după prin era cum cine unde când cât câți câte dar iar fi lui lor acest această fiind până între "
        "unui unei asupra",
        "tr": "ben sen biz siz onlar beni bana benim senin onun şu burada orada hiç şey her çok iyi yok nedir "
        "kimdir neresi hangisi kaçtır niçin ve bir bu da de için ile olarak olan en daha gibi ne kim nerede "
        "zaman nasıl hangi kaç neden o ise olduğu sonra kadar değil mi mı tarafından oldu var ya veya ancak "
        "ilk göre iki yıl",
        "az": "və bir bu da də üçün ilə olan ən çox daha kimi nə kim harada zaman necə hansı neçə niyə o isə sonra "
        "qədər deyil idi tərəfindən oldu var ya hər ilk görə iki il",
        "lt": "ir yra kad į iš su ne tai kaip buvo jis ji jie bet ar nuo po per dėl už kas kur kada apie taip pat "
        "tik jo jos jų savo metais kurie kuris kuri prie arba",
        "lv": "un ir ka uz ar no par tas kā bija viņš viņa viņi bet vai pēc pie kas kur kad arī tikai to gada ko "
        "lai nav savu kurš kura līdz",
        "sq": "e të në dhe i një për me që nga është si më u ka se por kjo ky ishte janë do kush çfarë kur ku sa "
        "cili cila nuk pas ose",
        "eu": "eta da bat ez du ere izan zen den ziren dira zuen baina edo zer nor non noiz nola zein hau hori bere "
        "beste egin duen dute oso arte gero",
        "ga": "agus an na ar is i a go le do bhí tá sé sí ag as ó nach níl cad cé cá conas cén mar seo sin faoi "
        "chun bhfuil gur leis",
        "cy": "y yr a i o yn ac ar am ei eu mae oedd wedi gan fod nid hyn hwn beth pwy ble pryd sut ond neu roedd bod hefyd",
        "eo": "la kaj de en estas al ke kun por ne li ŝi ili mi estis sed aŭ kio kiu kie kiam kiel el per sur pri ĉi tio",
        "id": "bahwa aku kamu saya kita anda sudah belum jangan bukan lagi hanya orang siapakah apakah dimanakah "
        "manakah yang dan di dari pada untuk dengan dalam ini itu adalah tidak oleh sebagai juga ke akan "
        "telah atau apa siapa kapan dimana mana bagaimana berapa mengapa menjadi dapat tersebut ia bisa "
        "karena tahun saat lebih seorang mereka sebuah secara namun seperti",
        "tl": "ako ikaw tayo kami kayo sila akin iyo atin namin ninyo dito doon wala may mayroon lahat gusto nang "
        "ba po ang ng sa na mga ay at ni si para ito hindi isang ko mo siya niya nila kanyang ano sino saan "
        "kailan paano bakit ilan mula o kung din rin naman noong bilang pa lamang kay",
        "vi": "và của là có được trong các cho không với một những người này đã để khi từ như đến ở về ra vào năm "
        "gì nào ai đâu bao nhiêu sao tại theo cũng sẽ trên hay bị nhiều thì lại mà ông tôi",
        "sw": "mimi wewe yeye sisi ninyi wao yangu yako yetu hapa hapo nina una ana tuna hakuna kitu kila sasa tu "
        "bado hivyo kwamba mwaka gani iko ipi ipo uko wapi na ya wa kwa ni katika la za kuwa cha hii huo huu "
        "ambayo ambaye lakini pia au nini nani lini ngapi je kama yake wake hiyo sana mtu watu alikuwa "
        "ilikuwa hadi kutoka si zaidi baada ndani vya",
        "yo": "kini tani odun wo ninu ilu oruko orile ede orílẹ̀ orúkọ ọdún ìgbà kinni omo gege bi won ní ti "
        "tí àti ó sí wọn àwọn ni jẹ́ fún pẹ̀lú láti náà bí kan èyí rẹ̀ kí ṣe lọ nínú wọ́n kò tó gẹ́gẹ́ "
        "mo ìlú lè ń ọ̀ ẹ̀ kíni tani ta nígbà awọn ati fun lati gbogbo",
        "ha": "da a na ta ya ne ce ba ga wannan kuma shi suna yana an wani wata amma domin daga ko me wane wa "
        "yaushe ina yadda mai masu su har cikin don haka lokacin bayan sai akan babu wanda",
        "ig": "nke bụ ndị ọ onye gị kedu ebee mgbe ole ma ka ga dị si otu nwere site ihe oge ahụ",
        "zu": "futhi ukuthi lesi lokhu kanye uma noma yini ubani kuphi nini kanjani ukuba abantu ngoba kodwa "
        "njengoba ngaphandle bona yena",
        "rw": "muri kandi cyangwa iki nde he ryari gute ko bya za ba uyu icyo ubwo yari umwe aho ariko cyane",
    },
    "Cyrl": {
        "ru": "ты меня мне мой моя тебя тебе нас нам вас вам они его ее их этого эта эти тот там здесь тут уже нет "
        "да очень надо нужно можно есть ни ничего всё и в не на что с по как это из к он был от за для или "
        "при то так но все она были было у о же какой какая какие кто где когда сколько почему каком который "
        "которая которые также до является года после во только чем я мы если",
        "uk": "ти мене мені мій моя тебе тобі нас нам вас вам вони його її їх цей ця ці той там тут вже немає ні "
        "дуже треба потрібно можна ще нічого усе чи або щоб і в не на що з по як це із до він був від за для "
        "при та так але все вона були було у й про який яка які хто де коли скільки чому якому також є року "
        "після лише ніж під цього бути ми якщо",
        "be": "і ў не на што з па як гэта да ён быў яго ад за для або пры так але усё яна былі было у які якая якія "
        "хто дзе калі чаму таксама ёсць года пасля толькі яе",
        "bg": "и в не на че с по как това от за или при то да се е са към той беше тя те но като какво кой коя кои "
        "къде кога колко защо който която които също след само през година бъде до има",
        "sr": "и у је на се да су за од с као који која које из о био била било али или до са те што ко где када "
        "како није по само још бити године његов према",
        "mk": "и во не на што со по како ова од за или при да се е сум кон тој беше таа тие но кој која каде кога "
        "колку зошто исто само низ година до има",
        "kk": "мен сен біз сіз олар мені маған менің сенің оның осы сол жоқ көп жақсы керек туралы деген жатыр және "
        "бен да де бұл үшін бір деп ол болып емес қандай кім қайда қашан қалай неше қанша не болған бар жылы "
        "еді соң кейін қай ең арқылы ретінде",
        "ky": "жана менен да бул үчүн бир деп ал болуп эмес кандай ким кайда качан канча эмне анын болгон бар жылы "
        "ошол эле кийин жөнүндө",
        "mn": "ба нь юм энэ бол байна байсан оны тэр гэж хэн юу хаана хэзээ хэд болон ч их онд өөр",
        "tg": "ва дар аз ба ки ин бо он барои аст буд кай куҷо чанд худ як ҳам",
    },
    "Arab": {
        "ar": "أنا أنت نحن هم إنه إن لن ليس لا يكون هل هنا هناك شيء جدا يجب هي كنت لي لك في من على إلى أن التي الذي "
        "عن مع هذا هذه كان كانت ما هو أو بين كما بعد قبل و لم قد ذلك متى أين كيف كم ماذا لماذا تم عام حيث ثم "
        "كل غير",
        "fa": "من تو ما شما آنها ایشان این آن اینجا هیچ همه خیلی خوب باید کنم کند کرد کردم بود بودم هستم نیست است "
        "دارم در از به که را با برای یک و می شد شده های هم تا او بر خود چه چند کجا کدام کیست چیست نیز اما یا "
        "پس چرا ها دارد شود سال باشد چگونه کسی زمانی",
        "ur": "کے کی کا میں ہے سے اور کو نے یہ اس ہیں تھا تھی پر وہ ایک بھی جو نہیں کہ گیا کر کیا کون کب کہاں کتنے "
        "کس تھے ہو ان لیے بعد ساتھ کیوں طور اپنے",
        "sd": "جي ۾ ۽ جو آهي کي تي سان هن کان اهو هو جا ته به جن نه هڪ لاءِ آهن ڪيو ويو ٿو ڪري",
        "ps": "د په او چې کې ته له سره دی دا یې نه هم شو وه کړي یو کړ لپاره",
        "ckb": "لە و بە کە بۆ ئەم ئەو لەگەڵ بوو یان دەکات ئەوە هەر نە چی کەی کوێ",
        "ug": "ۋە بىلەن بۇ بىر ئۈچۈن ئۇ ھەم دەپ",
    },
    "Deva": {
        "hi": "मैं तुम आप हम मेरा तुम्हारा आपका वे मुझे हमें बहुत कुछ सब नही होता रहा रहे रही सकता था थे वाला किस "
        "किसने किसे कौनसा के में की है का और से को पर यह ने एक हैं कि इस लिए भी नहीं या जो किया गया क्या कौन "
        "कब कहाँ कहां कितने कैसे हो थी तक अपने साथ वह करने",
        "mr": "मी तू आम्ही तुम्ही माझा तुझा मला तुला आपण खूप काही सर्व नाही हवे येथे होऊ करू आणि त्याने त्याला तिला "
        "आहे या ते व हे च ला होते होता होती ही त्या मध्ये तर काय कोण कधी कुठे किती कसे एक असे आहेत केली केले "
        "म्हणून त्यांनी हा झाला पण यांनी",
        "ne": "म तिमी हामी उनी मेरो तिम्रो मलाई हामीलाई धेरै केही सबै छु छौं थिए यहाँ यस त्यो भन्ने र छ को मा ले का "
        "पनि हो यो भएको गरेको छन् तथा थियो लागि एक के कहाँ कहिले कति कसरी गर्न भने उनले हुन् छैन गर्ने तर",
    },
}
"""Common short words of languages that share a script, question words included because queries hold them."""

_LETTERS: dict[str, dict[str, str]] = {
    "Latn": {
        "ñ": "es gl", "¿": "es", "ß": "de", "ã": "pt", "õ": "pt et", "ő": "hu", "ű": "hu", "ğ": "tr az", "ı": "tr az",
        "ş": "tr az ro", "ə": "az", "ț": "ro", "ș": "ro", "ţ": "ro", "ă": "ro vi", "ł": "pl", "ą": "pl lt", "ę": "pl lt",
        "ż": "pl", "ś": "pl", "ź": "pl", "ć": "pl hr", "ř": "cs", "ě": "cs", "ů": "cs", "ľ": "sk", "ĺ": "sk", "ŕ": "sk",
        "đ": "vi hr", "ơ": "vi", "ư": "vi", "å": "sv no da", "ø": "no da", "æ": "no da is", "þ": "is", "ð": "is",
        "ė": "lt", "ų": "lt", "į": "lt", "ļ": "lv", "ņ": "lv", "ģ": "lv", "ķ": "lv", "ā": "lv", "ĉ": "eo", "ĝ": "eo",
        "ŭ": "eo", "ẹ": "yo vi ig", "ọ": "yo vi ig", "ṣ": "yo", "ɗ": "ha", "ƙ": "ha", "ɓ": "ha", "ü": "de tr hu et az",
        "ö": "de sv fi tr hu et is az", "ä": "de sv fi et sk", "ë": "sq nl", "œ": "fr", "ê": "fr pt vi", "è": "fr it ca",
        "ụ": "ig vi", "ị": "ig vi",
    },
    "Cyrl": {
        "і": "uk be kk", "ї": "uk", "є": "uk", "ґ": "uk", "ў": "be", "ђ": "sr", "ћ": "sr", "ј": "sr mk", "љ": "sr mk",
        "њ": "sr mk", "ѓ": "mk", "ќ": "mk", "ѕ": "mk", "ә": "kk", "ғ": "kk tg", "қ": "kk tg", "ң": "kk ky", "ө": "kk ky mn",
        "ұ": "kk", "ү": "kk ky mn", "һ": "kk", "ҳ": "tg", "ҷ": "tg", "ӣ": "tg", "ы": "ru be kk ky", "ё": "ru be", "э": "ru be",
        "ъ": "bg ru",
    },
    "Arab": {
        "پ": "fa ur sd ps ckb", "چ": "fa ur sd ps ckb", "ژ": "fa ckb", "گ": "fa ur ckb sd", "ی": "fa ur ps ckb",
        "ک": "fa ur sd ps ckb",
        "ٹ": "ur", "ڈ": "ur", "ڑ": "ur", "ے": "ur", "ں": "ur", "ھ": "ur", "ہ": "ur", "ۃ": "ur", "ة": "ar",
        "ي": "ar sd", "ك": "ar",
        "أ": "ar", "إ": "ar", "ى": "ar", "ٿ": "sd", "ٻ": "sd", "ڪ": "sd", "ڏ": "sd", "ڳ": "sd", "ټ": "ps", "ډ": "ps", "ړ": "ps",
        "ښ": "ps", "ڼ": "ps", "ې": "ps ug", "ۆ": "ckb ug", "ێ": "ckb", "ە": "ckb ug", "ڵ": "ckb", "ڕ": "ckb",
        "ۇ": "ug", "ۈ": "ug",
    },
    "Deva": {"ळ": "mr"},
}  # fmt: skip
"""Letters that few languages of a script use, with those languages."""


_ENDINGS: dict[str, dict[str, str]] = {
    "Latn": {
        "en": "ing ion ted ght ous ment ful ally",
        "de": "ung gen ten ren ich lich keit isch ßen chen",
        "fr": "eur eux ent aux ait ois que ées ire",
        "es": "ado ada ión dad nte dos das ndo iento",
        "it": "one oni ato ata ità nte are ere ono mente ello",
        "pt": "ção ões ado ada ade nte ndo ram eiro",
        "ca": "ció ats ada itat ment",
        "nl": "ing gen den ten ijk aar eren lijk sch",
        "sv": "ing nde ade ten het are erna arna isk",
        "no": "ing ende ene het ere ert sjon lig",
        "da": "ing ende ene hed ere ede lig isk",
        "fi": "nen ssa ssä sta stä lla llä lle tta ttä ksi iin een aan ään sen uus oja vat vät vuo ko kö",
        "et": "ses est sse ate tud mise ust ele ikud",
        "hu": "nak nek ban ben ból ből ról ről hoz hez val vel ság ség ott ett tam tem unk ünk tak tek",
        "pl": "ego emu ych ich owa ski nie ość iem ał ała ów",
        "cs": "ého ých ost ení ního ují ové ský ího áš íš",
        "sk": "ého ých osť nie ský ová ujú",
        "ro": "ului elor ilor ea ție ții esc ează",
        "tr": "lar ler nın nin nun nün dır dir dan den yor mış miş ları leri rum sın sin",
        "az": "lar lər nın nin dır dir dan dən mış miş ları ləri",
        "id": "kan nya nan asi aan kah lah",
        "sw": "wa ika isha ilika ana ani iwa ala eni",
        "tl": "ang han hin ong ing",
        "lt": "mas imas ius oje ose ais",
        "lv": "šana ija iem ām īja",
        "vi": "ng nh",
    },
    "Cyrl": {
        "ru": "ние ать ять ый ого его ому ость ция ами ешь ишь",
        "uk": "ння ати ити ий ого ому ість ція ами єш їть ється ться ся",
        "bg": "ата ите ето ият ски ване ция",
        "kk": "лар лер дар дер ның нің дың дің тың тің ған ген ды ді мын мін",
        "be": "ння аць ыць ага асць цыя",
        "sr": "ње ост ски ога има",
    },
    "Arab": {
        "fa": "ها های ند ید ام",
        "ar": "ات ون ين ية",
        "ur": "وں یں نے تا تی",
    },
    "Deva": {
        "hi": "ों ीं ना ता ती ते या कर",
        "mr": "चा ची चे च्या ला ांनी ून णे ात ाची ने तो ते",
        "ne": "को का की ले लाई मा हरू एको नु न्छ छ",
    },
}  # fmt: skip
"""Endings (two to five characters) of longer words."""


def detect_language(text: str) -> str:
    """The BCP 47 primary tag of the language `text` is mostly written in, "" when there is nothing to go by.

    Reads the first 500 characters. Made to choose a stemmer: of near twins the commoner is named (Indonesian for Malay).
    """
    return _winner(_evidence(text))


def detect_languages(texts: Sequence[str], company: Mapping[str, int] | None = None) -> list[str]:
    """The languages of texts that stand together, "" where there is nothing to go by.

    As `detect_language`, but a text that says little of its own language (a title, a line of a table) is taken to be in one
    that is frequent among the others. `company` counts further texts of known languages ("en": 1200) that these join.
    """
    votes = [_evidence(text) for text in texts]
    counts = Counter(company or {})
    counts.update(map(_winner, votes))
    share = min(1.0, _MOST_COMPANY / max(counts.total(), 1))
    frequent = {lang: _COMPANY_WEIGHT * math.log1p(times * share) for lang, times in counts.items() if lang}
    return [_winner({lang: said + frequent.get(lang, 0.0) for lang, said in one.items()}) for one in votes]


def _evidence(text: str) -> dict[str, float]:
    """What speaks for each language that `text` may be in; a language that its script settles has all."""
    sample = unicodedata.normalize("NFKC", text[:_DETECT_CHARS]).lower()
    script = _main_script(sample)
    if script in _COMMON_WORDS:
        return _vote(sample, script)
    return {_ONLY_LANGUAGE[script]: 1.0} if script in _ONLY_LANGUAGE else {}


def _winner(votes: Mapping[str, float]) -> str:
    best = max(votes, key=votes.__getitem__, default="")  # the first listed wins a tie
    return best if best and votes[best] else ""


def _main_script(sample: str) -> str:
    if sample.isascii():
        return "Latn" if _ASCII_LETTER.search(sample) else ""
    counts: Counter[str] = Counter()
    for char, times in Counter(sample).items():
        script = _script(ord(char))
        counts[script] += times * _DENSE.get(script, 1)
    del counts[""]
    if not counts:
        return ""
    if counts["Kana"] * 10 > counts["Hani"]:  # Japanese has Chinese characters too, Chinese has hardly any kana
        counts["Kana"] += counts["Hani"]
    return max(counts, key=lambda script: (counts[script], script))


def _script(code: int) -> str:
    at = bisect_right(_STARTS, code) - 1
    if at < 0 or code > _SCRIPT_RANGES[at][1]:
        return ""
    return _SCRIPT_RANGES[at][2]


_ASCII_LETTER = re.compile("[a-z]")
_ASCII_WORD = re.compile("[a-z]+")
"""`_WORD` in lower-case ASCII text: faster."""
_WORD = re.compile(r"[^\W\d_](?:[^\W\d_]|[\u0300-\u036f\u0900-\u0903\u093a-\u094f])*")


@cache
def _ballot(script: str) -> Ballot:
    """Counts common words, endings and letters for the languages of a script, in the order of `_COMMON_WORDS`."""
    number = {lang: place for place, lang in enumerate(_COMMON_WORDS[script])}
    words, endings = ({}, {})  # type: dict[str, list[int]], dict[str, list[int]]
    for table, source in ((words, _COMMON_WORDS), (endings, _ENDINGS)):
        for lang, listed in source[script].items():
            for word in dict.fromkeys(listed.split()):
                table.setdefault(word, []).append(number[lang])
    letters = {letter: [number[lang] for lang in langs.split()] for letter, langs in _LETTERS[script].items()}
    return Ballot(len(number), words, endings, letters, _ENDING_WEIGHT, _LETTER_WEIGHT)


def _vote(sample: str, script: str) -> dict[str, float]:
    """The evidence for each language of a script; a word, ending or letter counts the less, the more languages share it."""
    found = (_ASCII_WORD if sample.isascii() else _WORD).findall(sample)
    return dict(zip(_COMMON_WORDS[script], _ballot(script).votes(sample, found), strict=True))


# --- sentences and passages -----------------------------------------------------------------------------------------

_UNMARKED = frozenset({"th", "lo", "km", "my"})
"""Languages that put a space, not a mark, where a sentence ends."""

_SPACE = re.compile(r"\s+")
_PARAGRAPH_END = re.compile(r"\n\s*\n\s*")
_SENTENCE_END = re.compile(
    r"(?<=[。！？｡．])[」』”’）】》\"')\]]*(?![。！？｡．」』”’）】》])\s*"  # full-width marks need no space after them
    r"|(?<=[.!?…।॥؟۔።፧៕։׃])[\"'”’»)\]]*\s+"
    r"|\n\s*"
)
_ABBREVIATION = re.compile(
    r"(?:^|(?<=[\s(]))(?:[^\W\d_]|[0-9]{1,2}|e\.g|i\.e|z\.B|Dr|Mrs?|Ms|Prof|St|Nr|No|vs|bzw|ca|cf|pp?|Fig|Abb|Sra?|al|approx)\.\s+$"
)


def sentences(text: str, lang: str = "") -> list[str]:
    """Sentences of `text`, in order, without the white space around them; nothing but white space is lost.

    By rules: a sentence ends at a line break, at a full-width mark, or at a mark before white space unless it belongs to
    an initial, a number or a common abbreviation; in Thai, Lao, Khmer and Burmese white space ends it. `lang` is a
    BCP 47 primary tag; "" has it detected. Meant for cutting passages and for display, not for linguistics.
    """
    return [text[start:stop] for start, stop in sentence_spans(text, lang)]


def sentence_spans(text: str, lang: str = "") -> list[tuple[int, int]]:
    """Where each of the `sentences` starts and stops in `text`."""
    found = []
    for start, stop in _sentence_spans(text, lang or detect_language(text)):
        piece = text[start:stop]
        start += len(piece) - len(piece.lstrip())
        if sentence := piece.strip():
            found.append((start, start + len(sentence)))
    return found


def split_passages(text: str, max_chars: int = 1000, lang: str = "") -> list[str]:
    """`text` cut into passages of at most `max_chars` characters, none of them empty; only white space is lost.

    Whole paragraphs (blank lines end them) are packed together while they fit. A longer paragraph is cut at sentence
    ends, a longer sentence at white space, and a longer word anywhere but before a combining mark. Raises BadInput if
    max_chars < 1.
    """
    if max_chars < 1:
        raise BadInput(f"max_chars={max_chars}: expected at least 1 character. A few hundred to two thousand is usual.")
    passages: list[str] = []
    start = end = 0
    for stop in _cuts(text, max_chars, lang or detect_language(text)):
        if len(text[start:stop].strip()) > max_chars:
            passages.append(text[start:end].strip())
            start = end
        end = stop
    passages.append(text[start:].strip())
    return [passage for passage in passages if passage]


def _cuts(text: str, max_chars: int, lang: str) -> Iterator[int]:
    """Where `text` may be cut, ascending up to its length; between two of them no more than `max_chars` but white space."""
    for start, stop in _spans(text, _PARAGRAPH_END):
        paragraph = text[start:stop]
        if len(paragraph.strip()) > max_chars:
            for first, last in _sentence_spans(paragraph, lang):
                yield from (start + first + cut for cut in _sentence_cuts(paragraph[first:last], max_chars))
        else:
            yield stop


def _sentence_cuts(sentence: str, max_chars: int) -> Iterator[int]:
    if len(sentence.strip()) > max_chars:
        for start, stop in _spans(sentence, _SPACE):
            end = start + len(sentence[start:stop].rstrip())
            while end - start > max_chars:
                start = _before_mark(sentence, start, start + max_chars)
                yield start
            yield stop
    else:
        yield len(sentence)


def _before_mark(text: str, start: int, cut: int) -> int:
    """The last place in start + 1 .. cut with no combining mark after it; `cut` itself where there is none."""
    return next((at for at in range(cut, start, -1) if unicodedata.category(text[at])[0] != "M"), cut)


def _spans(text: str, end: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Start and stop of the pieces that matches of `end` close; together they are the whole text."""
    start = 0
    for found in end.finditer(text):
        if found.end() > start:
            yield start, found.end()
            start = found.end()
    if start < len(text):
        yield start, len(text)


def _sentence_spans(text: str, lang: str) -> Iterator[tuple[int, int]]:
    if lang in _UNMARKED:
        yield from _spans(text, _SPACE)
        return
    start = 0
    for _, stop in _spans(text, _SENTENCE_END):
        if stop == len(text) or not _ABBREVIATION.search(text, max(start, stop - 24), stop):
            yield start, stop
            start = stop


SAMPLES: Final = (
    "The river rises in the northern mountains and flows for three hundred kilometres before it reaches the sea.",
    "Patients who were given the drug recovered two days earlier than those in the control group.",
    "To reset your password, open the settings, choose security and follow the link that we send by e-mail.",
    "The company reported a profit of 4.2 million for the third quarter, well above what analysts had expected.",
    "Sort the list before you search it: a binary search needs the items in ascending order.",
    "She wrote her first novel at the age of nineteen and won the national prize for it in 1963.",
    "Die Stadt liegt am Rhein und war im Mittelalter ein wichtiger Handelsplatz.",
    "Der Vertrag kann mit einer Frist von drei Monaten zum Ende des Jahres gekündigt werden.",
    "La bibliothèque a été fondée au dix-huitième siècle et conserve plus de deux millions de livres.",
    "Les chercheurs ont mesuré la température de l'eau pendant dix ans.",
    "El museo abre todos los días excepto los lunes y la entrada es gratuita para los estudiantes.",
    "El equipo ganó el campeonato en 1998 después de vencer en la final por dos goles a uno.",
    "Il ponte fu costruito nel 1884 e collega le due rive del fiume.",
    "A cidade tem cerca de trezentos mil habitantes e vive sobretudo do turismo.",
    "De trein vertrekt elk half uur en doet er veertig minuten over.",
    "Universitetet grundades 1477 och är det äldsta i landet.",
    "Øya har omtrent fem tusen innbyggere, og de fleste lever av fiske.",
    "Kaupunki perustettiin vuonna 1550, ja siellä asuu nykyään yli puoli miljoonaa ihmistä.",
    "Zamek zbudowano w czternastym wieku na wzgórzu nad rzeką.",
    "Orașul se află la poalele munților și are o universitate veche.",
    "A vár a tizenharmadik században épült, és ma múzeum működik benne.",
    "Завод был построен в 1932 году и выпускал тракторы и другие машины для сельского хозяйства.",
    "Учёные обнаружили новый вид птиц на островах в Тихом океане.",
    "Місто розташоване на березі моря і відоме своїм портом.",
    "Το νησί έχει μακρά ιστορία και κατοικείται από την αρχαιότητα.",
    "Kent, on dokuzuncu yüzyılda önemli bir ticaret merkeziydi.",
    "Қала өзеннің жағасында орналасқан және көптеген мектептері бар.",
    "تأسست الجامعة عام 1908 وتضم اليوم أكثر من عشرين كلية.",
    "يقع المتحف في وسط المدينة ويفتح أبوابه كل يوم من التاسعة صباحا.",
    "این شهر در کنار رودخانه قرار دارد و جمعیت آن نزدیک به یک میلیون نفر است.",
    "المدينة القديمة محاطة بسور بني في القرن الثاني عشر.",
    "הספרייה הוקמה בשנת 1892 ויש בה יותר מחמישה מיליון ספרים.",
    "यह मंदिर ग्यारहवीं शताब्दी में बनाया गया था और यहाँ हर साल लाखों लोग आते हैं।",
    "वैज्ञानिकों ने पाया कि नई दवा से रोगी जल्दी ठीक होते हैं।",
    "শহরটি নদীর তীরে অবস্থিত এবং এখানে একটি পুরোনো বিশ্ববিদ্যালয় আছে।",
    "ఈ నగరం నది ఒడ్డున ఉంది, ఇక్కడ అనేక పురాతన దేవాలయాలు ఉన్నాయి.",
    "இந்த நகரம் கடற்கரையில் அமைந்துள்ளது, இங்கு பல பழமையான கோவில்கள் உள்ளன.",
    "เมืองนี้ตั้งอยู่ริมแม่น้ำและเป็นศูนย์กลางการค้าที่สำคัญมาตั้งแต่อดีต",
    "Thành phố nằm bên bờ sông và có nhiều trường đại học lâu đời.",
    "Pulau ini memiliki gunung berapi yang masih aktif dan banyak dikunjungi wisatawan.",
    "Mji huu uko kando ya ziwa na una bandari kubwa.",
    "Ìlú náà wà ní etí odò, ó sì ní ọjà ńlá kan.",
    "这座城市位于长江下游，是中国重要的工业和交通中心。",
    "研究人员发现，每天步行半小时可以降低患心脏病的风险。",
    "請在設定中選擇語言，然後重新啟動程式。",
    "この大学は1877年に設立され、現在は約三万人の学生が学んでいる。",
    "新しい駅は市の中心から歩いて十分のところにある。",
    "이 도시는 강가에 자리 잡고 있으며 오래된 성과 박물관으로 유명하다.",
)
"""What passages are like on average, in some thirty languages: `index` takes the middle of their vectors."""
