// A guard of mapped files: a page that cannot be read (the file was cut, its disk fails) ends no process.
//
// The kernel answers such a read with SIGBUS. When the address lies in a watched range, the handler puts zeros in the
// place of the whole range, remembers where it happened, and the read goes on; whoever computed with the range asks
// `fault_of` afterwards and throws the result away. The whole range, not the page: a file that is cut below gigabytes of
// map, or a disk that answers each page with an error after seconds, is met once. Every other SIGBUS goes to whoever
// handled it before, faulthandler or a sanitizer among them, or ends the process as ever.
#pragma once
#include <cstddef>
#include <cstdint>

namespace herd {

// Watches a map [start, start + bytes) from now on: its number. `start` is the start of a page.
int64_t watch(const void *start, size_t bytes);

// The map is gone, or about to go.
void unwatch(int64_t number);

// The byte of the map at which a read failed first; -1: none did.
int64_t fault_of(int64_t number);

// How many reads failed so far, of all maps. Takes the signal back, too, when another handler came after ours.
int64_t count_faults();

}  // namespace herd
