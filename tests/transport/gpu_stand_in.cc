// One mutex, one table of what is alive, and streams that go on when somebody looks.
#include "tests/transport/gpu_stand_in.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

namespace paceline {

struct GpuContext {};

struct GpuEvent {
  int recorded = 0;
  int done = 0;
};

struct StreamOperation {
  enum class Kind { kCopy, kRecord, kSend, kReceive, kNothing };
  Kind kind = Kind::kNothing;
  void* to = nullptr;
  const void* from = nullptr;
  size_t bytes = 0;
  GpuEvent* event = nullptr;
  int number = 0;  // of the record
  NcclCommunicator* communicator = nullptr;
  GpuStream* stream = nullptr;
  bool begun = false;
};

struct GpuStream {
  std::deque<StreamOperation> operations;
};

// What the two ranks write into their socket: a tag, for data a length and the bytes.
constexpr char kCame = 'R';   // the other rank is there
constexpr char kFirst = 'C';  // it has an operation
constexpr char kData = 'D';
constexpr size_t kEager = 64 << 10;  // bytes taken without a receive

struct NcclCommunicator {
  int rank = 0;
  int listening = -1;  // rank 0, until rank 1 has come
  int socket = -1;
  bool connected = false;
  bool peer_operates = false;
  bool operates = false;
  int polls_left = 0;  // questions until an operation has started
  std::deque<StreamOperation> starting;
  std::vector<char> out;
  std::vector<char> in;  // behind the tags that were taken
};

namespace stand_in {
namespace {

constexpr int kInvalidUsage = 5;
constexpr int kGpuOutOfMemory = 2;
constexpr int kGpuInvalidContext = 201;
constexpr int kGpuInvalidHandle = 400;

struct World {
  std::mutex mutex;
  Faults faults;
  std::vector<std::string> misuses;
  std::set<void*> host_memory, contexts;
  std::map<char*, size_t> device_memory;
  std::set<GpuStream*> streams;
  std::set<GpuEvent*> events;
  std::set<NcclCommunicator*> communicators;
  std::map<std::string, int> listening;  // by id
  int ids = 0;
  int made = 0;
  int aborted = 0;
  unsigned turn = 0;  // varies how long things take
  GpuContext context;
  int retained = 0;
};
World& The() {
  static auto* const world = [] {
    auto* made = new World;
    if (const char* version = std::getenv("STAND_IN_NCCL")) made->faults.version = std::atoi(version);
    if (const char* devices = std::getenv("STAND_IN_GPUS")) made->faults.devices = std::atoi(devices);
    return made;
  }();
  return *world;
}

thread_local std::vector<GpuContext*> current_contexts;
thread_local int group_depth = 0;
thread_local std::vector<StreamOperation> group;

int Misuse(const std::string& what) {
  std::fprintf(stderr, "stand-in: misuse: %s\n", what.c_str());
  The().misuses.push_back(what);
  return kInvalidUsage;
}

bool InContext(const char* call) {
  if (!current_contexts.empty()) return true;
  Misuse(std::string(call) + " without a current context");
  return false;
}

bool OnDevice(const void* memory, size_t bytes) {
  const auto* const at = static_cast<const char*>(memory);
  return std::any_of(The().device_memory.begin(), The().device_memory.end(), [&](const auto& piece) {
    return at >= piece.first && at + bytes <= piece.first + piece.second;
  });
}

void Write(NcclCommunicator& c, const void* data, size_t bytes) {
  const auto* const at = static_cast<const char*>(data);
  c.out.insert(c.out.end(), at, at + bytes);
}

// Moves what the socket takes and gives.
void Pump(NcclCommunicator& c, size_t wanted) {
  if (c.socket < 0) return;
  while (!c.out.empty()) {
    const ssize_t n = send(c.socket, c.out.data(), c.out.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n <= 0) break;
    c.out.erase(c.out.begin(), c.out.begin() + n);
  }
  for (;;) {
    while (!c.in.empty() && (c.in.front() == kCame || c.in.front() == kFirst)) {
      (c.in.front() == kCame ? c.connected : c.peer_operates) = true;
      c.in.erase(c.in.begin());
    }
    const size_t room = std::max(wanted, kEager);
    if (c.in.size() >= room) return;
    static thread_local std::vector<char> piece(kEager);
    const size_t bytes = std::min(piece.size(), room - c.in.size());
    const ssize_t n = recv(c.socket, piece.data(), bytes, MSG_DONTWAIT);
    if (n <= 0) return;
    c.in.insert(c.in.end(), piece.begin(), piece.begin() + n);
  }
}

// True when the operation has ended.
bool Transfer(StreamOperation& operation) {
  NcclCommunicator& c = *operation.communicator;
  if (The().faults.hold_transfers) return false;
  const uint64_t bytes = operation.bytes;
  if (operation.kind == StreamOperation::Kind::kSend) {
    if (!operation.begun) {
      operation.begun = true;
      Write(c, &kData, 1);
      Write(c, &bytes, sizeof(bytes));
      Write(c, operation.from, operation.bytes);
    }
    Pump(c, 0);
    return c.out.empty();
  }
  constexpr size_t kHead = 1 + sizeof(uint64_t);
  Pump(c, kHead + bytes);
  if (c.in.size() < kHead) return false;
  uint64_t sent = 0;
  std::memcpy(&sent, c.in.data() + 1, sizeof(sent));
  if (sent != bytes) {
    if (!operation.begun)
      Misuse("a receive of " + std::to_string(bytes) + " bytes meets a send of " + std::to_string(sent));
    operation.begun = true;
    return false;  // as in NCCL, for ever
  }
  if (c.in.size() < kHead + bytes) return false;
  std::memcpy(operation.to, c.in.data() + kHead, operation.bytes);
  c.in.erase(c.in.begin(), c.in.begin() + static_cast<ptrdiff_t>(kHead + bytes));
  return true;
}

// One operation of one stream. True when something ended.
bool Step(GpuStream& stream) {
  if (stream.operations.empty()) return false;
  StreamOperation& front = stream.operations.front();
  switch (front.kind) {
    case StreamOperation::Kind::kCopy:
      std::memcpy(front.to, front.from, front.bytes);
      break;
    case StreamOperation::Kind::kRecord:
      front.event->done = front.number;
      break;
    case StreamOperation::Kind::kSend:
    case StreamOperation::Kind::kReceive:
      if (!Transfer(front)) return false;
      break;
    case StreamOperation::Kind::kNothing:
      break;
  }
  stream.operations.pop_front();
  return true;
}

sockaddr_un AddressOf(const std::string& name, socklen_t& size) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), name.size());  // the first byte stays zero: no file
  size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

bool Connected(NcclCommunicator& c) {
  if (The().faults.hold_connections) return false;
  if (c.listening >= 0) {
    c.socket = accept4(c.listening, nullptr, nullptr, SOCK_CLOEXEC);
    if (c.socket < 0) return false;
    close(c.listening);
    c.listening = -1;
    Write(c, &kCame, 1);
    c.connected = true;
  }
  Pump(c, 0);
  return c.connected;
}

// True when nothing of the communicator is in progress any more.
bool Settle(NcclCommunicator& c) {
  if (!Connected(c)) return false;
  if (c.starting.empty()) return true;
  if (The().faults.hold_starts || c.polls_left-- > 0 || !c.peer_operates) return false;
  for (const StreamOperation& operation : c.starting) operation.stream->operations.push_back(operation);
  c.starting.clear();
  return true;
}

// What goes on by itself, whoever asks: connections, starts, one operation per stream.
bool StepAll() {
  for (NcclCommunicator* communicator : The().communicators) Settle(*communicator);
  bool any = false;
  for (GpuStream* stream : The().streams) any = Step(*stream) || any;
  return any;
}

int Queue(StreamOperation::Kind kind, void* to, const void* from, size_t bytes, int type, int peer,
          NcclCommunicator* c, GpuStream* stream) {
  const std::lock_guard lock(The().mutex);
  if (The().communicators.count(c) == 0) return Misuse("an operation on a communicator that is no more");
  if (group_depth == 0) return Misuse("an operation outside a group");
  if (type != kNcclBytes || peer != 1 - c->rank) return Misuse("wrong type or peer");
  if (The().streams.count(stream) == 0) return Misuse("an operation on a stream that is no more");
  if (!OnDevice(kind == StreamOperation::Kind::kSend ? from : to, bytes))
    return Misuse("rows are not on the device");
  if (!c->connected || !c->starting.empty()) return Misuse("an operation on a communicator in progress");
  group.push_back(
      {.kind = kind, .to = to, .from = from, .bytes = bytes, .communicator = c, .stream = stream});
  return kNcclSuccess;
}

int Copy(void* to, const void* from, size_t bytes, GpuStream* stream, const void* device, const void* host) {
  const std::lock_guard lock(The().mutex);
  if (!InContext("a copy")) return kGpuInvalidContext;
  const bool pinned = std::any_of(The().host_memory.begin(), The().host_memory.end(),
                                  [&](void* piece) { return piece == host; });
  if (!OnDevice(device, bytes) || !pinned || The().streams.count(stream) == 0) {
    Misuse("a copy between what is no pinned and device memory, or in no stream");
    return kGpuInvalidHandle;
  }
  stream->operations.push_back(
      {.kind = StreamOperation::Kind::kCopy, .to = to, .from = from, .bytes = bytes});
  return kGpuSuccess;
}

}  // namespace

void Set(const Faults& faults) {
  const std::lock_guard lock(The().mutex);
  The().faults = faults;
}
std::vector<std::string> Misuses() {
  const std::lock_guard lock(The().mutex);
  return The().misuses;
}
int Alive() {
  const std::lock_guard lock(The().mutex);
  const World& world = The();
  return static_cast<int>(world.host_memory.size() + world.device_memory.size() + world.streams.size() +
                          world.events.size() + world.communicators.size()) +
         world.retained;
}
int Made() {
  const std::lock_guard lock(The().mutex);
  return The().made;
}
int Aborted() {
  const std::lock_guard lock(The().mutex);
  return The().aborted;
}

}  // namespace stand_in

using stand_in::The;

extern "C" {

int ncclGetVersion(int* version) {
  const std::lock_guard lock(The().mutex);
  *version = The().faults.version;
  return kNcclSuccess;
}

int ncclGetUniqueId(NcclId* id) {
  const std::lock_guard lock(The().mutex);
  const std::string name =
      "paceline-stand-in-" + std::to_string(getpid()) + "-" + std::to_string(++The().ids);
  socklen_t size = 0;
  const sockaddr_un address = stand_in::AddressOf(name, size);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), size) != 0 || listen(fd, 1) != 0)
    return stand_in::Misuse(std::string("the stand-in cannot listen: ") + std::strerror(errno));
  The().listening[name] = fd;
  *id = {};
  std::copy(name.begin(), name.end(), id->bytes.begin());
  return kNcclSuccess;
}

int ncclCommInitRankConfig(NcclCommunicator** communicator, int ranks, NcclId id, int rank,
                           NcclConfig* config) {
  const std::lock_guard lock(The().mutex);
  if (!stand_in::InContext("ncclCommInitRankConfig")) return stand_in::kInvalidUsage;
  if (ranks != 2 || rank < 0 || rank > 1 || config->size != sizeof(NcclConfig) ||
      config->magic != 0xcafebeef || config->version != 21800 || config->blocking != 0)
    return stand_in::Misuse("ncclCommInitRankConfig: two ranks, not blocking, and a configuration of 2.18");
  const std::string name(id.bytes.data());
  auto made = std::make_unique<NcclCommunicator>();
  made->rank = rank;
  if (rank == 0) {
    const auto found = The().listening.find(name);
    if (found == The().listening.end())
      return stand_in::Misuse("an id that was used before, or is of nobody here");
    made->listening = found->second;
    The().listening.erase(found);
  } else {
    socklen_t size = 0;
    const sockaddr_un address = stand_in::AddressOf(name, size);
    made->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // Nobody listens: as with NCCL, rank 1 waits for ever.
    if (connect(made->socket, reinterpret_cast<const sockaddr*>(&address), size) != 0) {
      close(made->socket);
      made->socket = -1;
    }
  }
  *communicator = made.release();
  The().communicators.insert(*communicator);
  ++The().made;
  return kNcclInProgress;
}

int ncclCommGetAsyncError(NcclCommunicator* communicator, int* state) {
  const std::lock_guard lock(The().mutex);
  if (The().communicators.count(communicator) == 0)
    return stand_in::Misuse("a question about a communicator that is no more");
  stand_in::StepAll();
  if (The().faults.failing_rank == communicator->rank) {
    *state = The().faults.failure;
  } else {
    *state = stand_in::Settle(*communicator) ? kNcclSuccess : kNcclInProgress;
  }
  return kNcclSuccess;
}

int ncclCommAbort(NcclCommunicator* communicator) {
  const std::lock_guard lock(The().mutex);
  if (The().communicators.erase(communicator) == 0)
    return stand_in::Misuse("a communicator is aborted twice");
  if (!stand_in::InContext("ncclCommAbort")) return stand_in::kInvalidUsage;
  for (GpuStream* stream : The().streams) {
    for (StreamOperation& operation : stream->operations) {
      if (operation.communicator == communicator) operation.kind = StreamOperation::Kind::kNothing;
    }
  }
  for (const int fd : {communicator->socket, communicator->listening}) {
    if (fd >= 0) close(fd);
  }
  delete communicator;
  ++The().aborted;
  return kNcclSuccess;
}

int ncclGroupStart() {
  ++stand_in::group_depth;
  return kNcclSuccess;
}

int ncclGroupEnd() {
  const std::lock_guard lock(The().mutex);
  if (--stand_in::group_depth > 0) return kNcclSuccess;
  for (const StreamOperation& operation : stand_in::group) {
    NcclCommunicator& c = *operation.communicator;
    c.starting.push_back(operation);
    c.polls_left = static_cast<int>(The().turn++ % 3);
    if (!std::exchange(c.operates, true)) stand_in::Write(c, &kFirst, 1);
    stand_in::Pump(c, 0);
  }
  const bool any = !stand_in::group.empty();
  stand_in::group.clear();
  return any ? kNcclInProgress : kNcclSuccess;
}

int ncclSend(const void* rows, size_t count, int type, int peer, NcclCommunicator* communicator,
             GpuStream* stream) {
  return stand_in::Queue(StreamOperation::Kind::kSend, nullptr, rows, count, type, peer, communicator,
                         stream);
}

int ncclRecv(void* rows, size_t count, int type, int peer, NcclCommunicator* communicator,
             GpuStream* stream) {
  return stand_in::Queue(StreamOperation::Kind::kReceive, rows, nullptr, count, type, peer, communicator,
                         stream);
}

const char* ncclGetErrorString(int result) {
  return result == 6 ? "remote process exited or there was a network error" : "some error";
}
const char* ncclGetLastError(NcclCommunicator*) { return "stand-in"; }

int cuInit(unsigned) { return kGpuSuccess; }

int cuDeviceGetCount(int* count) {
  const std::lock_guard lock(The().mutex);
  if (The().faults.devices > 0) *count = The().faults.devices;
  return The().faults.devices > 0 ? kGpuSuccess : 100;  // CUDA_ERROR_NO_DEVICE
}

int cuDeviceGet(int* device, int ordinal) {
  const std::lock_guard lock(The().mutex);
  *device = ordinal;
  return ordinal < The().faults.devices ? kGpuSuccess : 101;  // CUDA_ERROR_INVALID_DEVICE
}

int cuDeviceGetUuid_v2(GpuUuid* uuid, int device) {
  // A process of a machine with one GPU has that; without the variable every process has GPUs of its own.
  const char* const devices = std::getenv("STAND_IN_GPUS");
  const int words[] = {devices != nullptr && std::string(devices) == "1" ? 1 : getpid(), device};
  std::memcpy(uuid->data(), words, sizeof(words));
  return kGpuSuccess;
}

int cuDevicePrimaryCtxRetain(GpuContext** context, int) {
  const std::lock_guard lock(The().mutex);
  ++The().retained;
  *context = &The().context;
  return kGpuSuccess;
}

int cuDevicePrimaryCtxRelease_v2(int) {
  const std::lock_guard lock(The().mutex);
  --The().retained;
  return kGpuSuccess;
}

int cuCtxPushCurrent_v2(GpuContext* context) {
  stand_in::current_contexts.push_back(context);
  return kGpuSuccess;
}

int cuCtxPopCurrent_v2(GpuContext** context) {
  *context = stand_in::current_contexts.back();
  stand_in::current_contexts.pop_back();
  return kGpuSuccess;
}

int cuStreamCreate(GpuStream** stream, unsigned flags) {
  const std::lock_guard lock(The().mutex);
  if (flags != kGpuStreamNonBlocking) stand_in::Misuse("a stream that waits for the default stream");
  if (!stand_in::InContext("cuStreamCreate")) return stand_in::kGpuInvalidContext;
  *stream = new GpuStream;
  The().streams.insert(*stream);
  return kGpuSuccess;
}

int cuStreamDestroy_v2(GpuStream* stream) {
  const std::lock_guard lock(The().mutex);
  if (The().streams.erase(stream) == 0) stand_in::Misuse("a stream is destroyed twice");
  delete stream;
  return kGpuSuccess;
}

int cuEventCreate(GpuEvent** event, unsigned) {
  const std::lock_guard lock(The().mutex);
  *event = new GpuEvent;
  The().events.insert(*event);
  return kGpuSuccess;
}

int cuEventDestroy_v2(GpuEvent* event) {
  const std::lock_guard lock(The().mutex);
  if (The().events.erase(event) == 0) stand_in::Misuse("an event is destroyed twice");
  delete event;
  return kGpuSuccess;
}

int cuEventRecord(GpuEvent* event, GpuStream* stream) {
  const std::lock_guard lock(The().mutex);
  if (!stand_in::InContext("cuEventRecord")) return stand_in::kGpuInvalidContext;
  stream->operations.push_back(
      {.kind = StreamOperation::Kind::kRecord, .event = event, .number = ++event->recorded});
  return kGpuSuccess;
}

int cuEventQuery(GpuEvent* event) {
  const std::lock_guard lock(The().mutex);
  stand_in::StepAll();
  return event->done == event->recorded ? kGpuSuccess : kGpuNotReady;
}

int cuMemAlloc_v2(GpuAddress* address, size_t bytes) {
  const std::lock_guard lock(The().mutex);
  if (The().faults.no_memory) return stand_in::kGpuOutOfMemory;
  if (!stand_in::InContext("cuMemAlloc")) return stand_in::kGpuInvalidContext;
  auto* const memory = new char[bytes];
  The().device_memory[memory] = bytes;
  *address = reinterpret_cast<GpuAddress>(memory);
  return kGpuSuccess;
}

int cuMemFree_v2(GpuAddress address) {
  const std::lock_guard lock(The().mutex);
  auto* const memory = reinterpret_cast<char*>(address);
  while (stand_in::StepAll()) {
  }
  for (const GpuStream* stream : The().streams) {
    for (const StreamOperation& operation : stream->operations) {
      if (operation.to == memory || operation.from == memory)
        stand_in::Misuse("cuMemFree waits for an operation that does not end");
    }
  }
  if (The().device_memory.erase(memory) == 0) stand_in::Misuse("device memory is freed twice");
  delete[] memory;
  return kGpuSuccess;
}

int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  const std::lock_guard lock(The().mutex);
  if (!stand_in::InContext("cuMemHostAlloc")) return stand_in::kGpuInvalidContext;
  *memory = new char[bytes];
  The().host_memory.insert(*memory);
  return kGpuSuccess;
}

int cuMemFreeHost(void* memory) {
  const std::lock_guard lock(The().mutex);
  if (The().host_memory.erase(memory) == 0) stand_in::Misuse("pinned memory is freed twice");
  delete[] static_cast<char*>(memory);
  return kGpuSuccess;
}

int cuMemcpyHtoDAsync_v2(GpuAddress to, const void* from, size_t bytes, GpuStream* stream) {
  auto* const device = reinterpret_cast<void*>(to);
  return stand_in::Copy(device, from, bytes, stream, device, from);
}

int cuMemcpyDtoHAsync_v2(void* to, GpuAddress from, size_t bytes, GpuStream* stream) {
  const auto* const device = reinterpret_cast<const void*>(from);
  return stand_in::Copy(to, device, bytes, stream, device, to);
}

int cuGetErrorString(int result, const char** words) {
  *words = result == stand_in::kGpuOutOfMemory ? "out of memory" : "an error of the stand-in";
  return kGpuSuccess;
}

}  // extern "C"

const GpuCalls& stand_in::Calls() {
  static const GpuCalls calls = [] {
    GpuCalls table;
#define PACELINE_FILL(member, symbol, result, parameters) table.member = symbol;
    PACELINE_NCCL_CALLS(PACELINE_FILL)
    PACELINE_GPU_CALLS(PACELINE_FILL)
#undef PACELINE_FILL
    return table;
  }();
  return calls;
}

}  // namespace paceline
