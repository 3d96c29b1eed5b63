// Loops over the words of texts, which would take most of the time of indexing if Python ran them. What is done with a word is
// decided in Python (analyze.py, text.py); here it is looked up, counted and put in order. The GIL stays held: all of it is
// Python's strings, or shared by threads.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
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

// Whether a text is ASCII and holds no sign on which a rule of analyze.py could act, so that its folded form is its lower case:
// no capital behind a small letter, no digits grouped, no name with dots and the like, no ++, no #. Rather no than wrongly yes.
static bool ordinary(nb::str text) {
    enum : uint8_t { other, digit, lower, upper, joint };  // joint: of names, - and _
    static const auto kinds = [] {
        std::array<uint8_t, 128> made{};
        for (char c = '0'; c <= '9'; ++c) made[size_t(c)] = digit;
        for (char c = 'a'; c <= 'z'; ++c) made[size_t(c)] = lower;
        for (char c = 'A'; c <= 'Z'; ++c) made[size_t(c)] = upper;
        made['-'] = made['_'] = joint;
        return made;
    }();
    if (!PyUnicode_IS_ASCII(text.ptr())) return false;
    const std::string_view all = utf8(text);
    const auto kind = [&](size_t at) { return at < all.size() ? kinds[uint8_t(all[at])] : uint8_t(other); };
    uint8_t before = other;
    for (size_t i = 0; i < all.size(); ++i) {
        const uint8_t here = kind(i);
        if (here == upper && before == lower) return false;
        if (here == other) {
            const uint8_t next = kind(i + 1);
            switch (all[i]) {
                case '#': return false;
                case '+': if (i + 1 < all.size() && all[i + 1] == '+') return false; break;
                case '.': case '@': case ':': case '>': if (next != other || (i + 1 < all.size() && all[i + 1] == ':')) return false; break;
                case ',': case '\'': case ' ': if (before == digit && next == digit) return false; break;
                default: break;
            }
        }
        before = here;
    }
    return true;
}

// Strings with a number each: open addressing over one run of bytes, so that a look-up touches two places of memory.
class Table {
public:
    const uint32_t* find(std::string_view text) const {
        const Entry& entry = entries_[place(text, hash(text))];
        return entry.size == free ? nullptr : &entry.value;
    }
    // A string that is not there yet.
    void insert(std::string_view text, uint32_t value) {
        if (2 * (count_ + 1) > entries_.size()) grow();
        const uint32_t hashed = hash(text);
        entries_[place(text, hashed)] = {bytes_.size(), hashed, uint32_t(text.size()), value};
        bytes_.append(text);
        ++count_;
    }
    size_t size() const { return count_; }

private:
    static constexpr uint32_t free = UINT32_MAX;
    struct Entry {
        uint64_t start = 0;
        uint32_t hash = 0, size = free, value = 0;
    };

    static uint32_t hash(std::string_view text) { return uint32_t(std::hash<std::string_view>{}(text)); }

    // Where the string stands, or would.
    size_t place(std::string_view text, uint32_t hashed) const {
        for (size_t at = hashed;; ++at) {
            at &= entries_.size() - 1;
            const Entry& entry = entries_[at];
            if (entry.size == free) return at;
            if (entry.hash == hashed && std::string_view(bytes_).substr(entry.start, entry.size) == text) return at;
        }
    }
    void grow() {
        std::vector<Entry> old(2 * entries_.size());
        old.swap(entries_);
        for (const Entry& entry : old)
            if (entry.size != free) entries_[place(std::string_view(bytes_).substr(entry.start, entry.size), entry.hash)] = entry;
    }

    std::vector<Entry> entries_{1024};
    std::string bytes_;
    size_t count_ = 0;
};

// Terms by number, and the terms of words by language: what an analyzer remembers from text to text.
class Remembered {
public:
    uint32_t number(std::string_view term) {
        if (const uint32_t* known = numbers_.find(term)) return *known;
        const auto fresh = uint32_t(ends_.size() - 1);
        numbers_.insert(term, fresh);
        bytes_.append(term);
        ends_.push_back(bytes_.size());
        return fresh;
    }
    std::string_view term(uint32_t number) const {
        return std::string_view(bytes_).substr(ends_[number], ends_[number + 1] - ends_[number]);
    }
    size_t terms() const { return ends_.size() - 1; }
    size_t words() const { return words_; }

    Table& of(const std::string& lang) { return tables_[lang]; }

    void keep(Table& table, std::string_view word, const std::vector<uint32_t>& terms) {
        if (table.find(word)) return;  // another thread was faster
        if (terms.size() != 1) lists_.push_back(terms);
        table.insert(word, terms.size() == 1 ? terms[0] : uint32_t(lists_.size() - 1) | several);
        ++words_;
    }
    // f(term) for each term of a word that `keep` has given this value.
    template <typename F>
    void each(uint32_t value, F&& f) const {
        if (!(value & several)) return f(value);
        for (uint32_t term : lists_[value & ~several]) f(term);
    }

private:
    static constexpr uint32_t several = 1u << 31;

    Table numbers_;
    std::string bytes_;
    std::vector<uint64_t> ends_{0};
    std::unordered_map<std::string, Table> tables_;
    std::vector<std::vector<uint32_t>> lists_;
    size_t words_ = 0;
};

// Shared by the inversions of an analyzer; one that begins when it is full begins a new one.
class Lexicon {
public:
    Lexicon(size_t words, size_t longest) : longest(longest), most_(words) {}

    std::shared_ptr<Remembered> current() {
        if (now_->words() >= most_ || now_->terms() >= 2 * most_) now_ = std::make_shared<Remembered>();
        return now_;
    }
    const size_t longest;  // bytes of a word that is remembered

private:
    size_t most_;
    std::shared_ptr<Remembered> now_ = std::make_shared<Remembered>();
};

template <typename T>
using Out = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <typename T>
static Out<T> give(std::vector<T>&& values) {
    auto* kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Out<T>(kept->data(), {kept->size()}, owner);
}

// The inverted lists of texts that are added one after the other.
class Inversion {
public:
    explicit Inversion(Lexicon& lexicon) : known_(lexicon.current()), longest_(lexicon.longest) {}

    // Every [0-9a-z][0-9a-z_-]* of an ASCII text counts `times` times; analyse(word, lang) gives the terms of one that is new.
    void add_text(nb::str folded, nb::object analyse, nb::str lang, uint32_t times) {
        const std::string_view text = utf8(folded);
        Table& table = known_->of(std::string(utf8(lang)));
        for (size_t start = 0, stop; start < text.size(); start = stop + 1) {
            stop = start;
            if (!begins(text[start])) continue;
            while (++stop < text.size() && (begins(text[stop]) || text[stop] == '_' || text[stop] == '-')) {}
            add_word(text.substr(start, stop - start), table, analyse, lang, times);
        }
    }
    // Likewise the words of any text.
    void add_words(nb::list words, nb::object analyse, nb::str lang, uint32_t times) {
        Table& table = known_->of(std::string(utf8(lang)));
        for (nb::handle word : words) add_word(utf8(word), table, analyse, lang, times);
    }
    void add_terms(nb::handle terms) {
        for (nb::handle term : terms) add_term(number(term), 1);
    }
    // The text is over; what comes belongs to the next slot.
    void end() {
        lengths_.push_back(length_);
        length_ = 0;
    }

    // The arrays of postings.Postings, in the order of its fields.
    nb::tuple arrays() {
        std::vector<uint64_t> next(known_->terms()), offsets{0}, starts{0};
        for (const Posting& one : postings_) ++next[one.term];
        std::vector<uint8_t> bytes;
        for (uint32_t term : sorted_terms()) {
            const std::string_view text = known_->term(term);
            bytes.insert(bytes.end(), text.begin(), text.end());
            offsets.push_back(bytes.size());
            const uint64_t count = next[term];
            next[term] = starts.back();
            starts.push_back(starts.back() + count);
        }
        std::vector<uint32_t> slots(postings_.size()), tf(postings_.size());
        for (const Posting& one : postings_) {
            const uint64_t at = next[one.term]++;
            slots[at] = one.slot;
            tf[at] = one.tf;
        }
        return nb::make_tuple(give(std::vector<uint32_t>(lengths_)), give(std::move(offsets)), give(std::move(bytes)),
                              give(std::move(starts)), give(std::move(slots)), give(std::move(tf)));
    }

private:
    struct Posting {
        uint32_t term, slot, tf;
    };

    static bool begins(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

    uint32_t number(nb::handle term) {
        if (PyBytes_Check(term.ptr())) return known_->number({PyBytes_AS_STRING(term.ptr()), size_t(PyBytes_GET_SIZE(term.ptr()))});
        if (!PyUnicode_Check(term.ptr())) throw nb::type_error("terms must be str or bytes");
        return known_->number(utf8(term));
    }

    void add_word(std::string_view word, Table& table, const nb::object& analyse, const nb::str& lang, uint32_t times) {
        const auto add = [&](uint32_t term) { add_term(term, times); };
        if (const uint32_t* value = table.find(word)) return known_->each(*value, add);
        std::vector<uint32_t> terms;
        for (nb::handle term : analyse(nb::str(word.data(), word.size()), lang)) terms.push_back(number(term));
        std::for_each(terms.begin(), terms.end(), add);
        if (word.size() <= longest_) known_->keep(table, word, terms);
    }

    void add_term(uint32_t term, uint32_t times) {
        length_ += times;
        if (term >= newest_.size()) newest_.resize(known_->terms());
        const size_t at = newest_[term];
        const bool seen = at < postings_.size() && postings_[at].term == term;
        if (seen && postings_[at].slot == lengths_.size()) {
            postings_[at].tf += times;
            return;
        }
        if (!seen) used_.push_back(term);
        newest_[term] = postings_.size();
        postings_.push_back({term, uint32_t(lengths_.size()), times});
    }

    // Those that occur, by their bytes: compared by the first eight, and as a whole where these are the same.
    std::vector<uint32_t> sorted_terms() const {
        std::vector<std::pair<uint64_t, uint32_t>> order;
        for (uint32_t term : used_) {
            const std::string_view text = known_->term(term);
            uint64_t first = 0;
            for (size_t i = 0; i < 8; ++i) first = first << 8 | (i < text.size() ? uint8_t(text[i]) : 0);
            order.emplace_back(first, term);
        }
        std::sort(order.begin(), order.end(), [&](const auto& a, const auto& b) {
            return a.first != b.first ? a.first < b.first : known_->term(a.second) < known_->term(b.second);
        });
        std::vector<uint32_t> terms;
        for (const auto& [first, term] : order) terms.push_back(term);
        return terms;
    }

    std::shared_ptr<Remembered> known_;
    size_t longest_;
    std::vector<uint32_t> lengths_;
    std::vector<uint32_t> used_;     // terms that occur, in the order in which they first do
    std::vector<size_t> newest_;     // of a term: its newest posting, if that is one of the term
    std::vector<Posting> postings_;
    uint32_t length_ = 0;
};

// The inverted lists of texts given as terms.
static nb::tuple invert_terms(nb::handle texts) {
    Lexicon none(0, 0);
    Inversion inversion(none);
    for (nb::handle terms : texts) {
        inversion.add_terms(terms);
        inversion.end();
    }
    return inversion.arrays();
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
    nb::class_<Lexicon>(m, "Lexicon").def(nb::init<size_t, size_t>(), nb::arg("words"), nb::arg("longest"));
    nb::class_<Inversion>(m, "Inversion")
        .def(nb::init<Lexicon&>(), nb::arg("lexicon"))
        .def("add_text", &Inversion::add_text, nb::arg("folded"), nb::arg("analyse"), nb::arg("lang"), nb::arg("times") = 1)
        .def("add_words", &Inversion::add_words, nb::arg("words"), nb::arg("analyse"), nb::arg("lang"), nb::arg("times") = 1)
        .def("end", &Inversion::end)
        .def("arrays", &Inversion::arrays);
    m.def("invert_terms", &invert_terms, nb::arg("texts"));
    m.def("ordinary", &ordinary, nb::arg("text"));
    nb::class_<Ballot>(m, "Ballot")
        .def(nb::init<size_t, nb::dict, nb::dict, nb::dict, double, double>(), nb::arg("languages"), nb::arg("words"),
             nb::arg("endings"), nb::arg("letters"), nb::arg("ending"), nb::arg("letter"))
        .def("votes", &Ballot::votes, nb::arg("sample"), nb::arg("found"));
}
