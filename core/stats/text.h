// The JSON model as text for people: aligned keys, quantities with units.
//
//   device                                    fuse    count  errors_count     bytes  latency_ns_p50
//   ...
//     read_bytes       3.00 GiB                 read   1200             0  4.69 MiB         5.30 us
//     read_latency_ns  1200: p50 12.0 us, ...   write    10             1  40.0 KiB         9.10 us
//
// Keys are those of the JSON, so that what is seen here can be asked for there. Objects of objects
// of one shape become tables.
#pragma once

#include <string>

#include "core/stats/json.h"

namespace fusefs {

// `data` is an object: the data of an envelope, or a part of it.
std::string render_text(const Json& data);

}  // namespace fusefs
