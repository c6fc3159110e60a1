#include "core/file/read_streams.h"

#include <algorithm>

namespace fusefs {
namespace {

// Reads further apart are not taken for the beginning of a strided stream.
constexpr uint64_t kStrideMax = 16 << 20;

uint64_t distance(uint64_t a, uint64_t b) { return a > b ? a - b : b - a; }

int64_t difference(uint64_t to, uint64_t from) {
  return static_cast<int64_t>(to) - static_cast<int64_t>(from);
}

}  // namespace

// The stream that the read belongs to; it becomes what the read shows it to be.
ReadStreams::Stream* ReadStreams::find_stream(uint64_t pos, uint64_t len) {
  using Kind = Stream::Kind;
  for (Stream& stream : streams_) {
    // Two requests may come in the other order, and one of three be missing yet.
    if (stream.kind != Kind::sequential) continue;
    if (pos <= stream.end + len && pos + 2 * len >= stream.end) return &stream;
  }
  for (Stream& stream : streams_) {
    if ((stream.kind == Kind::strided || stream.kind == Kind::maybe_strided) &&
        difference(pos, stream.pos) == stream.stride) {
      stream.kind = Kind::strided;
      return &stream;
    }
  }
  for (Stream& stream : streams_) {
    if (stream.kind == Kind::unused || pos != stream.end) continue;
    stream.kind = Kind::sequential;
    stream.window_bytes = kReadaheadBytesMin;
    stream.ahead = 0;
    return &stream;
  }
  Stream* nearest = nullptr;
  for (Stream& stream : streams_) {
    if (stream.kind != Kind::fresh || pos == stream.pos) continue;
    if (distance(pos, stream.pos) > kStrideMax) continue;
    if (nearest == nullptr || distance(pos, stream.pos) < distance(pos, nearest->pos)) {
      nearest = &stream;
    }
  }
  if (nearest == nullptr) return nullptr;
  nearest->kind = Kind::maybe_strided;
  nearest->stride = difference(pos, nearest->pos);
  return nearest;
}

ReadStreams::Stream& ReadStreams::begin_stream(uint64_t pos, uint64_t len) {
  Stream& oldest =
      *std::min_element(streams_.begin(), streams_.end(),
                        [](const Stream& a, const Stream& b) { return a.used_at < b.used_at; });
  oldest = Stream{};
  oldest.kind = Stream::Kind::fresh;
  oldest.pos = pos;
  oldest.end = pos + len;
  return oldest;
}

std::optional<ReadaheadPlan> ReadStreams::advance_sequential(Stream& stream, uint64_t window_max) {
  stream.window_bytes = std::min(stream.window_bytes, window_max);
  stream.ahead = std::max(stream.ahead, stream.end);
  if (stream.ahead - stream.end > stream.window_bytes / 2) return std::nullopt;
  const uint64_t until = stream.end + stream.window_bytes;
  if (until <= stream.ahead) return std::nullopt;
  const ReadaheadPlan plan{stream.ahead, until - stream.ahead, 0, 1};
  stream.ahead = until;
  stream.window_bytes = std::min(2 * stream.window_bytes, window_max);
  return plan;
}

std::optional<ReadaheadPlan> ReadStreams::advance_strided(Stream& stream, uint64_t len,
                                                          uint64_t window_max) {
  stream.window_bytes = std::min(stream.window_bytes, window_max);
  if (stream.ahead > 0) --stream.ahead;  // this one
  const uint64_t target = std::clamp<uint64_t>(stream.window_bytes / len, 1, kReadaheadPiecesMax);
  if (stream.ahead > target / 2 || stream.ahead >= target) return std::nullopt;
  const auto piece_pos = [&](uint64_t n) {
    return static_cast<int64_t>(stream.pos) + static_cast<int64_t>(n) * stream.stride;
  };
  uint64_t count = target - stream.ahead;
  // Backwards, up to the beginning of the file.
  while (count > 0 && piece_pos(stream.ahead + count) < 0) --count;
  if (count == 0) return std::nullopt;
  const ReadaheadPlan plan{static_cast<uint64_t>(piece_pos(stream.ahead + 1)), len, stream.stride,
                           count};
  stream.ahead += count;
  stream.window_bytes = std::min(2 * stream.window_bytes, window_max);
  return plan;
}

bool ReadStreams::has_passed(uint64_t pos) const {
  return std::any_of(streams_.begin(), streams_.end(), [pos](const Stream& stream) {
    return stream.kind == Stream::Kind::sequential && pos < stream.end &&
           stream.end - pos <= 2 * stream.window_bytes;
  });
}

std::optional<ReadaheadPlan> ReadStreams::note_read(uint64_t pos, uint64_t len,
                                                    uint64_t window_max) {
  Stream* stream = find_stream(pos, len);
  if (stream == nullptr) stream = &begin_stream(pos, len);
  stream->used_at = ++now_;
  stream->pos = pos;
  stream->end =
      stream->kind == Stream::Kind::sequential ? std::max(stream->end, pos + len) : pos + len;
  if (window_max == 0) return std::nullopt;
  if (stream->kind == Stream::Kind::sequential) return advance_sequential(*stream, window_max);
  if (stream->kind == Stream::Kind::strided) return advance_strided(*stream, len, window_max);
  return std::nullopt;
}

}  // namespace fusefs
