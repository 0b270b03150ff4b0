// Byte-level byte-pair encoding by a merge list (Sennrich et al. 2016, arXiv 1508.07909; byte alphabet of GPT-2).
//
// A piece of text starts as one symbol per byte. The pair of neighbours whose merge stands first in the list is joined,
// the leftmost first when a pair occurs twice, until no neighbours are in the list. This is what the files of
// Hugging Face (`tokenizer.json`) and GGUF mean. It is not the rule of rank files (`tokenizer.model`), where the rank
// belongs to the joined text and not to the pair.
//
// Cost: O(n log n) for a piece of n bytes: neighbours in a linked list, candidates in a heap. A candidate is outdated when
// either of its symbols has changed; it is then skipped when popped.
//
// Every id that `encode` can return is ordinary: special tokens are in no table here.
#include "bpe.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nb = nanobind;

namespace herd {
namespace {

constexpr int32_t kNone = -1;
constexpr size_t kCachedPieceBytes = 64;    // longer pieces are rarely seen twice
constexpr size_t kCachedPieces = 1 << 15;   // then the cache starts anew: at most about 8 MiB

// GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 onwards, in order.
struct Alphabet {
    std::array<uint16_t, 256> code{};       // byte -> code point
    std::array<int16_t, 0x144> byte{};      // code point -> byte, or -1

    Alphabet() {
        byte.fill(-1);
        uint16_t next = 0x100;
        for (int b = 0; b < 256; ++b) {
            const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
            code[b] = printable ? static_cast<uint16_t>(b) : next++;
            byte[code[b]] = static_cast<int16_t>(b);
        }
    }

    // The bytes that a token's text stands for; false if it holds a character outside the alphabet.
    bool decode(std::string_view text, std::string& out) const {
        out.clear();
        for (size_t i = 0; i < text.size();) {
            const auto c = static_cast<unsigned char>(text[i]);
            uint32_t point;
            if (c < 0x80) {
                point = c;
                i += 1;
            } else if ((c & 0xe0) == 0xc0 && i + 1 < text.size()) {
                point = (c & 0x1fu) << 6 | (static_cast<unsigned char>(text[i + 1]) & 0x3fu);
                i += 2;
            } else {
                return false;
            }
            if (point >= byte.size() || byte[point] < 0) return false;
            out.push_back(static_cast<char>(byte[point]));
        }
        return true;
    }
};

const Alphabet& alphabet() {
    static const Alphabet table;
    return table;
}

// (left id, right id) -> (rank, joined id): open addressing, at most half full, hashed with a seed of this process so that
// a hostile file cannot choose its collisions.
class PairTable {
public:
    struct Merge {
        uint32_t rank;
        int32_t joined;
    };

    explicit PairTable(size_t pairs) {
        size_t size = 16;
        while (size < 2 * pairs) size *= 2;
        keys_.assign(size, kEmpty);
        merges_.resize(size);
        seed_ = (static_cast<uint64_t>(std::random_device{}()) << 32) | std::random_device{}();
    }

    bool insert(int32_t left, int32_t right, Merge merge) {
        const uint64_t key = pack(left, right);
        const size_t i = slot(key);
        if (keys_[i] == key) return false;
        keys_[i] = key;
        merges_[i] = merge;
        return true;
    }

    const Merge* find(int32_t left, int32_t right) const {
        const uint64_t key = pack(left, right);
        const size_t i = slot(key);
        return keys_[i] == key ? &merges_[i] : nullptr;
    }

private:
    static constexpr uint64_t kEmpty = ~0ull;

    static uint64_t pack(int32_t left, int32_t right) {
        return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    }

    size_t slot(uint64_t key) const {
        uint64_t h = key ^ seed_;  // the finalizer of splitmix64
        h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
        h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
        h ^= h >> 31;
        size_t i = h & (keys_.size() - 1);
        while (keys_[i] != kEmpty && keys_[i] != key) i = (i + 1) & (keys_.size() - 1);
        return i;
    }

    std::vector<uint64_t> keys_;
    std::vector<Merge> merges_;
    uint64_t seed_;
};

class PairRankBpe {
public:
    // tokens[id] is the text of a token in GPT-2's alphabet; ordinary[id] is 0 for tokens that text never becomes.
    // merges are "left right" in order of rank. whole_pieces: a piece that is itself a token is that token, unmerged.
    // ranks: of each merge, uint32, where several have one; of those the leftmost in a text is joined first.
    PairRankBpe(std::vector<std::string> tokens, const nb::bytes& ordinary, const std::vector<std::string>& merges,
                bool whole_pieces, const nb::bytes& ranks)
        : pairs_(merges.size()), whole_pieces_(whole_pieces) {
        const std::string_view is_ordinary(ordinary.c_str(), ordinary.size());
        if (tokens.size() != is_ordinary.size()) throw std::invalid_argument("tokens and their types differ in number");
        if (ranks.size() != 0 && ranks.size() != merges.size() * sizeof(uint32_t)) {
            throw std::invalid_argument("merges and their ranks differ in number");
        }
        std::unordered_map<std::string_view, int32_t> id_of;  // by text in the alphabet
        id_of.reserve(tokens.size());
        bytes_.resize(tokens.size());
        by_byte_.fill(kNone);
        for (size_t id = 0; id < tokens.size(); ++id) {
            const bool in_alphabet = is_ordinary[id] && alphabet().decode(tokens[id], bytes_[id]);
            if (!in_alphabet) bytes_[id] = tokens[id];
            if (!is_ordinary[id]) continue;
            const auto [at, fresh] = id_of.emplace(tokens[id], static_cast<int32_t>(id));
            if (!fresh) {
                throw std::invalid_argument("tokens " + std::to_string(at->second) + " and " + std::to_string(id) +
                                            " are the same text");
            }
            if (in_alphabet && bytes_[id].size() == 1) {
                by_byte_[static_cast<unsigned char>(bytes_[id][0])] = static_cast<int32_t>(id);
            }
        }
        std::string joined;
        for (size_t rank = 0; rank < merges.size(); ++rank) {
            const std::string_view merge = merges[rank];
            const size_t space = merge.find(' ');
            if (space == std::string_view::npos || merge.find(' ', space + 1) != std::string_view::npos) {
                throw std::invalid_argument("merge " + std::to_string(rank) + " is not two tokens with a space between");
            }
            joined.assign(merge.substr(0, space)).append(merge.substr(space + 1));
            const int32_t left = find(id_of, merge.substr(0, space)), right = find(id_of, merge.substr(space + 1));
            const int32_t id = find(id_of, joined);
            if (left == kNone || right == kNone || id == kNone) {
                throw std::invalid_argument("merge " + std::to_string(rank) + " names a token that is not in the vocabulary");
            }
            auto own = static_cast<uint32_t>(rank);
            if (ranks.size() != 0) std::memcpy(&own, ranks.c_str() + rank * sizeof own, sizeof own);
            if (!pairs_.insert(left, right, {own, id})) {
                throw std::invalid_argument("merge " + std::to_string(rank) + " repeats an earlier one");
            }
        }
        if (whole_pieces_) {
            whole_.reserve(id_of.size());
            for (const auto& [text, id] : id_of) {
                if (alphabet().decode(text, joined)) whole_.emplace(bytes_[id], id);
            }
        }
    }

    // Ids (int32) of pieces of text (UTF-8), each by itself. A byte that the vocabulary has no token for gives no id.
    // As bytes: a list of millions, which one long piece may be, is made by whoever lets other threads run meanwhile.
    nb::bytes ids_of(const std::vector<std::string>& pieces) {
        std::vector<int32_t> ids;
        {
            nb::gil_scoped_release other_threads_run;
            ids.reserve(pieces.size() + pieces.size() / 2);
            Scratch scratch;
            for (const std::string& piece : pieces) encode_piece(piece, ids, scratch);
        }
        return nb::bytes(ids.data(), ids.size() * sizeof(int32_t));
    }

    std::vector<nb::bytes> token_bytes() const {
        std::vector<nb::bytes> out;
        out.reserve(bytes_.size());
        for (const std::string& b : bytes_) out.emplace_back(b.data(), b.size());
        return out;
    }

    // The bytes of text that have no token.
    std::vector<int> missing_bytes() const {
        std::vector<int> out;
        for (int b = 0; b < 256; ++b) {
            if (by_byte_[b] == kNone) out.push_back(b);
        }
        return out;
    }

private:
    struct Symbol {
        int32_t id, previous, next;
    };
    struct Candidate {
        uint32_t rank;
        int32_t at, left, right, joined;
        // std::push_heap keeps the largest in front: the candidate to merge first is the "largest".
        bool operator<(const Candidate& other) const {
            return rank != other.rank ? rank > other.rank : at > other.at;
        }
    };

    // What merging one piece needs. Each call has its own: nobody waits for another's long piece.
    struct Scratch {
        std::vector<Symbol> symbols;
        std::vector<Candidate> heap;
    };

    static int32_t find(const std::unordered_map<std::string_view, int32_t>& id_of, std::string_view text) {
        const auto at = id_of.find(text);
        return at == id_of.end() ? kNone : at->second;
    }

    void encode_piece(const std::string& piece, std::vector<int32_t>& ids, Scratch& scratch) {
        if (piece.empty()) return;
        const bool is_short = piece.size() <= kCachedPieceBytes;
        if (is_short && recall(piece, ids)) return;
        if (whole_pieces_) {
            if (const auto at = whole_.find(piece); at != whole_.end()) {
                ids.push_back(at->second);
                return;
            }
        }
        const auto first = static_cast<ptrdiff_t>(ids.size());
        merge(piece, ids, scratch);
        if (is_short) remember(piece, std::vector<int32_t>(ids.begin() + first, ids.end()));
    }

    bool recall(const std::string& piece, std::vector<int32_t>& ids) {
        const std::lock_guard<std::mutex> guard(mutex_);
        const auto hit = cache_.find(piece);
        if (hit == cache_.end()) return false;
        ids.insert(ids.end(), hit->second.begin(), hit->second.end());
        return true;
    }

    void remember(const std::string& piece, std::vector<int32_t> ids) {
        const std::lock_guard<std::mutex> guard(mutex_);
        if (cache_.size() >= kCachedPieces) cache_.clear();
        cache_.emplace(piece, std::move(ids));
    }

    void propose(int32_t at, Scratch& s) const {
        if (at < 0 || s.symbols[at].next < 0) return;
        const int32_t left = s.symbols[at].id, right = s.symbols[s.symbols[at].next].id;
        if (const PairTable::Merge* m = pairs_.find(left, right)) {
            s.heap.push_back({m->rank, at, left, right, m->joined});
            std::push_heap(s.heap.begin(), s.heap.end());
        }
    }

    void merge(const std::string& piece, std::vector<int32_t>& ids, Scratch& s) const {
        s.symbols.clear();
        s.heap.clear();
        for (const char c : piece) {
            const int32_t id = by_byte_[static_cast<unsigned char>(c)];
            if (id == kNone) continue;
            const auto at = static_cast<int32_t>(s.symbols.size());
            s.symbols.push_back({id, at - 1, at + 1});
        }
        if (s.symbols.empty()) return;
        s.symbols.back().next = kNone;
        for (int32_t at = 0; at < static_cast<int32_t>(s.symbols.size()); ++at) propose(at, s);
        while (!s.heap.empty()) {
            const Candidate top = s.heap.front();
            std::pop_heap(s.heap.begin(), s.heap.end());
            s.heap.pop_back();
            Symbol& left = s.symbols[top.at];
            if (left.id != top.left || left.next < 0 || s.symbols[left.next].id != top.right) continue;
            Symbol& right = s.symbols[left.next];
            left.id = top.joined;
            left.next = right.next;
            right.id = kNone;  // no candidate's symbol: whatever waits for it is outdated
            if (left.next >= 0) s.symbols[left.next].previous = top.at;
            propose(left.previous, s);
            propose(top.at, s);
        }
        for (int32_t at = 0; at >= 0; at = s.symbols[at].next) ids.push_back(s.symbols[at].id);
    }

    std::vector<std::string> bytes_;           // id -> bytes of the token
    std::array<int32_t, 256> by_byte_{};       // byte -> id, or kNone
    PairTable pairs_;
    bool whole_pieces_;
    std::unordered_map<std::string_view, int32_t> whole_;  // bytes -> id, for whole_pieces; views into bytes_
    std::mutex mutex_;                                      // guards what follows
    std::unordered_map<std::string, std::vector<int32_t>> cache_;
};

}  // namespace

void register_bpe(nb::module_& m) {
    nb::class_<PairRankBpe>(m, "PairRankBpe", "Byte-level BPE by a merge list. Private: use herd.text.")
        .def(nb::init<std::vector<std::string>, const nb::bytes&, const std::vector<std::string>&, bool,
                      const nb::bytes&>(),
             nb::arg("tokens"), nb::arg("ordinary"), nb::arg("merges"), nb::arg("whole_pieces"),
             nb::arg("ranks") = nb::bytes("", 0))
        .def("ids_of", &PairRankBpe::ids_of, nb::arg("pieces"))
        .def("token_bytes", &PairRankBpe::token_bytes)
        .def("missing_bytes", &PairRankBpe::missing_bytes);
}

}  // namespace herd
