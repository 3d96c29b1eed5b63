// Loops over the words of texts, which would take most of the time of indexing if Python ran them. What is done with a word is
// decided in Python (analyze.py, text.py); here it is looked up, counted and put in order. The GIL stays held: all of it is
// Python's strings.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nb = nanobind;

// UTF-8, kept by the string object. Raises UnicodeEncodeError for lone surrogates.
static std::string_view utf8(nb::handle text) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    if (!data) throw nb::python_error();
    return {data, size_t(size)};
}

// The terms of the words of ASCII texts, each word analysed once and remembered.
class WordTerms {
public:
    WordTerms(size_t words, size_t longest) : most_(words), longest_(longest) {}

    // The terms of every [0-9a-z][0-9a-z_-]* in `folded`; analyse(word, lang) gives those of a word that is new.
    nb::list terms(nb::str folded, nb::object analyse, nb::str lang) {
        const std::string_view text = utf8(folded);
        nb::list found;
        std::string word;
        for (size_t start = 0, stop; start < text.size(); start = stop + 1) {
            stop = start;
            if (!begins(text[start])) continue;
            while (++stop < text.size() && (begins(text[stop]) || text[stop] == '_' || text[stop] == '-')) {}
            word.assign(text, start, stop - start);
            const nb::tuple some = of_word(word, analyse, lang);
            for (Py_ssize_t i = 0, size = Py_ssize_t(some.size()); i < size; ++i)
                if (PyList_Append(found.ptr(), PyTuple_GetItem(some.ptr(), i)) != 0) throw nb::python_error();
        }
        return found;
    }

private:
    static bool begins(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

    nb::tuple of_word(const std::string& word, const nb::object& analyse, const nb::str& lang) {
        const auto known = known_.find(word);
        if (known != known_.end()) return known->second;
        nb::tuple terms = nb::cast<nb::tuple>(analyse(nb::str(word.data(), word.size()), lang));
        if (word.size() > longest_) return terms;
        if (known_.size() >= most_) known_.clear();  // only now: another thread may have been here during the call
        known_[word] = terms;
        return terms;
    }

    size_t most_, longest_;
    std::unordered_map<std::string, nb::tuple> known_;
};

template <typename T>
using Out = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <typename T>
static Out<T> give(std::vector<T>&& values) {
    auto* kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Out<T>(kept->data(), {kept->size()}, owner);
}

// The inverted lists of texts given as terms: the arrays of postings.Postings, in the order of its fields.
static nb::tuple invert_terms(nb::list texts) {
    struct Posting {
        uint32_t term, slot, tf;
    };
    std::unordered_map<PyObject*, uint32_t> objects;  // most terms are the same object wherever they stand
    std::unordered_map<std::string_view, uint32_t> numbers;
    std::vector<std::string_view> words;
    std::vector<uint32_t> lengths, slots, tf;
    std::vector<uint64_t> last, counts;  // of each term: its newest posting, and how many it has
    std::vector<Posting> postings;
    for (nb::handle text : texts) {
        const auto slot = uint32_t(lengths.size());
        uint32_t length = 0;
        for (nb::handle term : text) {
            ++length;
            const auto [object, fresh] = objects.try_emplace(term.ptr(), 0);
            if (fresh) {
                if (!PyUnicode_Check(term.ptr())) throw nb::type_error("terms must be str");
                const auto [place, first] = numbers.try_emplace(utf8(term), uint32_t(words.size()));
                if (first) words.push_back(place->first), last.push_back(0), counts.push_back(0);
                object->second = place->second;
            }
            const uint32_t number = object->second;
            if (counts[number] && postings[last[number]].slot == slot) {
                ++postings[last[number]].tf;
                continue;
            }
            last[number] = postings.size();
            ++counts[number];
            postings.push_back({number, slot, 1});
        }
        lengths.push_back(length);
    }
    std::vector<uint32_t> order(words.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return words[a] < words[b]; });
    std::vector<uint64_t> offsets{0}, starts{0}, next(words.size());
    std::vector<uint8_t> bytes;
    for (uint32_t number : order) {
        bytes.insert(bytes.end(), words[number].begin(), words[number].end());
        next[number] = starts.back();
        offsets.push_back(bytes.size());
        starts.push_back(starts.back() + counts[number]);
    }
    slots.resize(postings.size());
    tf.resize(postings.size());
    for (const Posting& one : postings) {
        const uint64_t at = next[one.term]++;
        slots[at] = one.slot;
        tf[at] = one.tf;
    }
    return nb::make_tuple(give(std::move(lengths)), give(std::move(offsets)), give(std::move(bytes)), give(std::move(starts)),
                          give(std::move(slots)), give(std::move(tf)));
}

// What words, their endings and letters say for each of some languages.
class Ballot {
public:
    using Owners = std::unordered_map<std::string, std::vector<uint32_t>>;  // of a word: the languages that have it

    Ballot(size_t languages, nb::dict words, nb::dict endings, nb::dict letters, double ending, double letter)
        : languages_(languages), words_(owners(words, languages)), endings_(owners(endings, languages)),
          letters_(owners(letters, languages)), ending_(ending), letter_(letter) {}

    // One number a language. An entry counts weight * times / owners, entries in the order in which they first occur.
    std::vector<double> votes(nb::str sample, nb::list found) const {
        std::vector<double> sums(languages_);
        Counts words, endings, letters;
        for (nb::handle one : found) {
            const std::string_view word = utf8(one);
            if (!words.add(words_, word)) add_endings(word, endings);
        }
        const std::string_view text = utf8(sample);
        for (size_t start = 0, stop; start < text.size(); start = stop) {
            stop = start + 1;
            while (stop < text.size() && continues(text[stop])) ++stop;
            if (stop - start > 1) letters.add(letters_, text.substr(start, stop - start));  // none of them is ASCII
        }
        words.into(sums, 1.0);
        endings.into(sums, ending_);
        letters.into(sums, letter_);
        return sums;
    }

private:
    // How often each entry of a table occurs.
    struct Counts {
        std::vector<std::pair<const std::vector<uint32_t>*, size_t>> found;
        std::string key;

        bool add(const Owners& table, std::string_view item) {
            key.assign(item);
            const auto entry = table.find(key);
            if (entry == table.end()) return false;
            const auto same = [&](const auto& one) { return one.first == &entry->second; };
            const auto known = std::find_if(found.begin(), found.end(), same);
            if (known == found.end()) found.emplace_back(&entry->second, 1);
            else ++known->second;
            return true;
        }
        void into(std::vector<double>& sums, double weight) const {
            for (const auto& [owners, times] : found)
                for (uint32_t language : *owners) sums[language] += weight * double(times) / double(owners->size());
        }
    };

    static bool continues(char byte) { return (uint8_t(byte) & 0xC0) == 0x80; }

    // The last two to five letters of a word that has more.
    void add_endings(std::string_view word, Counts& counts) const {
        size_t at = word.size();
        for (int size = 1; size <= 5 && at > 0; ++size) {
            while (continues(word[--at])) {}
            if (size >= 2 && at > 0) counts.add(endings_, word.substr(at));
        }
    }

    static Owners owners(const nb::dict& table, size_t languages) {
        Owners found;
        for (auto [item, listed] : table) {
            auto& numbers = found[std::string(utf8(item))] = nb::cast<std::vector<uint32_t>>(listed);
            for (uint32_t number : numbers)
                if (number >= languages) throw nb::value_error("an owner must be the number of a language");
        }
        return found;
    }

    size_t languages_;
    Owners words_, endings_, letters_;
    double ending_, letter_;
};

void bind_text(nb::module_& m) {
    nb::class_<WordTerms>(m, "WordTerms")
        .def(nb::init<size_t, size_t>(), nb::arg("words"), nb::arg("longest"))
        .def("terms", &WordTerms::terms, nb::arg("folded"), nb::arg("analyse"), nb::arg("lang"));
    nb::class_<Ballot>(m, "Ballot")
        .def(nb::init<size_t, nb::dict, nb::dict, nb::dict, double, double>(), nb::arg("languages"), nb::arg("words"),
             nb::arg("endings"), nb::arg("letters"), nb::arg("ending"), nb::arg("letter"))
        .def("votes", &Ballot::votes, nb::arg("sample"), nb::arg("found"));
    m.def("invert_terms", &invert_terms, nb::arg("texts"));
}
