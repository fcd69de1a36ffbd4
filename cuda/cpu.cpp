// The CPU library's own entry points; each kernel family has a file of its own.
#include "cpu.h"

namespace flowwarp {
ParallelFor torch_pool = nullptr;
}

// Raised whenever a signature changes, so that a stale library is refused instead of called.
FW_EXPORT int fw_abi_version() { return 4; }

FW_EXPORT void fw_set_parallel_for(void* pool) {
    flowwarp::torch_pool = reinterpret_cast<flowwarp::ParallelFor>(pool);
}
