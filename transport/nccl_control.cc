// The control messages of an nccl link, byte by byte.
#include "transport/nccl_control.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"

namespace paceline {
namespace {

constexpr size_t kHeaderBytes = 8;
constexpr uint32_t kMagic = 0x314E4C50;             // "PLN1"; the digit is the version of these messages
constexpr uint64_t kMaxNumber = uint64_t{1} << 62;  // of messages; more can only be nonsense
constexpr size_t kMaxText = 4096;                   // bytes of a kFirst or kEnd

// Bytes behind the header; the texts have no fixed length.
size_t BodyBytes(NcclControlKind kind) {
  switch (kind) {
    case NcclControlKind::kHello:
      return 4 + 4 + sizeof(GpuUuid);
    case NcclControlKind::kMake:
      return 2 * sizeof(NcclId);
    case NcclControlKind::kAnnounce:
      return 3 * sizeof(uint64_t);
    case NcclControlKind::kFlush:
    case NcclControlKind::kFlushed:
      return sizeof(uint64_t);
    case NcclControlKind::kFirst:
    case NcclControlKind::kEnd:
      break;
  }
  return 0;
}

bool HasText(NcclControlKind kind) {
  return kind == NcclControlKind::kFirst || kind == NcclControlKind::kEnd;
}

// Fills a message that has its size already.
class Writer {
 public:
  explicit Writer(std::vector<std::byte>& out) : at_(out.data()) {}
  template <typename T>
  void Put(const T& value) {
    Append(&value, sizeof(T));
  }
  void Append(const void* data, size_t bytes) {
    if (bytes > 0) std::memcpy(at_, data, bytes);
    at_ += bytes;
  }

 private:
  std::byte* at_;
};

class Reader {
 public:
  explicit Reader(Bytes in) : in_(in) {}
  template <typename T>
  void Take(T& value) {
    std::memcpy(&value, in_.data(), sizeof(T));
    in_ = in_.subspan(sizeof(T));
  }

 private:
  Bytes in_;
};

absl::Status Wrong(const std::string& what) {
  return Error(errors::kFrame, absl::StrCat("control message of an nccl link: ", what));
}

}  // namespace

std::vector<std::byte> EncodeNcclControl(const NcclControl& control) {
  const Bytes text = control.rest.first(std::min(control.rest.size(), kMaxText));
  std::vector<std::byte> out(kHeaderBytes + BodyBytes(control.kind) +
                             (HasText(control.kind) ? text.size() : 0));
  Writer writer(out);
  writer.Put(static_cast<uint32_t>(control.kind));
  writer.Put(control.epoch);
  switch (control.kind) {
    case NcclControlKind::kHello:
      writer.Put(kMagic);
      writer.Put(control.version);
      writer.Put(control.gpu);
      break;
    case NcclControlKind::kMake:
      writer.Put(control.down);
      writer.Put(control.up);
      break;
    case NcclControlKind::kAnnounce:
      writer.Put(control.number);
      writer.Put(control.bytes);
      writer.Put(control.received);
      break;
    case NcclControlKind::kFlush:
      writer.Put(control.number);
      break;
    case NcclControlKind::kFlushed:
      writer.Put(control.received);
      break;
    case NcclControlKind::kFirst:
    case NcclControlKind::kEnd:
      writer.Append(text.data(), text.size());
      break;
  }
  return out;
}

absl::StatusOr<NcclControl> DecodeNcclControl(Bytes message) {
  if (message.size() < kHeaderBytes)
    return Wrong(absl::StrCat("expected ", kHeaderBytes, " bytes or more, got ", message.size()));
  NcclControl control;
  uint32_t kind;
  Reader reader(message);
  reader.Take(kind);
  reader.Take(control.epoch);
  if (kind < static_cast<uint32_t>(NcclControlKind::kHello) ||
      kind > static_cast<uint32_t>(NcclControlKind::kEnd))
    return Wrong(absl::StrCat("kind: expected 1 to 7, got ", kind));
  control.kind = static_cast<NcclControlKind>(kind);
  const Bytes body = message.subspan(kHeaderBytes);
  if (HasText(control.kind)) {
    if (body.empty() || body.size() > kMaxText)
      return Wrong(
          absl::StrCat("kind ", kind, ": expected 1 to ", kMaxText, " bytes of text, got ", body.size()));
    control.rest = body;
    return control;
  }
  if (body.size() != BodyBytes(control.kind)) {
    return Wrong(absl::StrCat("kind ", kind, ": expected ", BodyBytes(control.kind),
                              " bytes behind the header, got ", body.size()));
  }
  uint32_t magic = 0;
  switch (control.kind) {
    case NcclControlKind::kHello:
      reader.Take(magic);
      if (magic != kMagic)
        return Wrong(absl::StrCat("greeting: expected PLN1, got ", absl::Hex(magic, absl::kZeroPad8),
                                  "; install the same release of paceline on both ends"));
      reader.Take(control.version);
      reader.Take(control.gpu);
      break;
    case NcclControlKind::kMake:
      reader.Take(control.down);
      reader.Take(control.up);
      break;
    case NcclControlKind::kAnnounce:
      reader.Take(control.number);
      reader.Take(control.bytes);
      reader.Take(control.received);
      if (control.bytes == 0 || control.bytes > static_cast<uint64_t>(kMaxMessageBytes))
        return Wrong(absl::StrCat("bytes: expected 1 to ", kMaxMessageBytes, ", got ", control.bytes));
      break;
    case NcclControlKind::kFlush:
      reader.Take(control.number);
      break;
    default:
      reader.Take(control.received);
  }
  if (control.number > kMaxNumber || control.received > kMaxNumber)
    return Wrong(absl::StrCat("number of messages: expected at most ", kMaxNumber, ", got ",
                              std::max(control.number, control.received)));
  return control;
}

}  // namespace paceline
