#include "fusefs/pins_text.h"

#include <nlohmann/json.hpp>

#include "core/stats/json.h"
#include "fusefs/server.h"

namespace fusefs {
namespace {

const char* pin_kind_name(PinKind kind) {
  switch (kind) {
    case PinKind::read:
      return "read";
    case PinKind::write:
      return "write";
    case PinKind::mapped:
      return "mapped";
  }
  return "unknown";
}

Json range_json(InodeNo ino, const FileRange& range) {
  Json json;
  json["ino"] = ino.value();
  json["pos"] = file_pos(range.first);
  json["len"] = block_bytes(range.count());
  return json;
}

Json pin_json(const Pin& pin) {
  Json json;
  json["pin"] = pin.id;
  json.update(range_json(pin.inode()->ino, pin.range));
  json["kind"] = pin_kind_name(pin.kind);
  json["uid"] = pin.uid;
  json["since_unix_ns"] = unix_ns(pin.since);
  json["pinned_bytes"] = block_bytes(pin.pinned_end() - pin.range.first);
  json["in_window"] = pin.external;
  return json;
}

Json holder_json(const WindowHolder& holder) {
  using Phase = WindowHolder::Phase;
  const Window& window = *holder.window;
  Json json;
  json["window"] = window.id;
  json["holder"] = holder.number;
  json.update(range_json(window.inode->ino, window.range));
  json["kind"] = window.kind == WindowKind::pinned ? "pinned" : "mapped";
  json["writable"] = holder.writable;
  json["uid"] = window.uid;
  json["pid"] = holder.pid;
  json["since_unix_ns"] = unix_ns(holder.since);
  json["state"] = holder.phase == Phase::opening ? "opening"
                  : holder.phase == Phase::open  ? "open"
                                                 : "ending";
  const Ref<Pin>& pin = holder.pin ? holder.pin : window.pin;
  json["pin"] = pin ? Json(pin->id) : Json(nullptr);
  json["by_descriptor"] = holder.descriptor != 0;
  json["by_file"] = holder.lookups != 0;
  json["connections"] = holder.connections;
  return json;
}

}  // namespace

std::string pins_text(Server& server, uint32_t uid) {
  Json data;
  data["pins"] = Json::array();
  data["windows"] = Json::array();
  for (const auto& [id, pin] : server.volume().files().pins.all()) {
    if (uid == 0 || uid == pin->uid) data["pins"].push_back(pin_json(*pin));
  }
  for (const auto& [number, holder] : server.windows().holders()) {
    if (uid == 0 || uid == holder->window->uid) data["windows"].push_back(holder_json(*holder));
  }
  return dump_json(data, JsonLayout::line);
}

}  // namespace fusefs
