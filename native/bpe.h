// Pair-rank byte-pair encoding: see bpe.cpp.
#pragma once
#include <nanobind/nanobind.h>

namespace herd {

// Registers `PairRankBpe` in herd._native; herd.text.merge_list and herd.text.sentencepiece are its users.
void register_bpe(nanobind::module_& m);

}  // namespace herd
