// Which instruction sets this machine has, by feature bits and by what the system saves (XGETBV); never by
// model.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/packed.h"

namespace paceline::kernels::cpu {
namespace {

struct Features {
  bool avx2 = false, avx512 = false, vnni = false, amx = false;
};

uint64_t SavedState() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

// Tiles are 8 KiB of state that the system sets aside only for a process that asked, best before it has
// threads: ARCH_REQ_XCOMP_PERM of arch_prctl(2), component 18. Fails where the kernel does not know them.
bool MayUseTiles() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

// Intel SDM volume 2, CPUID: leaf 1 and leaf 7.
Features Detect() {
  Features f;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const bool fma = c >> 12 & 1, osxsave = c >> 27 & 1, avx = c >> 28 & 1, f16c = c >> 29 & 1;
  if (!osxsave || !avx || !fma || !f16c) return f;
  const uint64_t saved = SavedState();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  const auto ebx = [&](int bit) { return (b >> bit & 1) != 0; };
  f.avx2 = ebx(5) && (saved & 0x6) == 0x6;                                                  // XMM, YMM
  f.avx512 = f.avx2 && ebx(16) && ebx(17) && ebx(30) && ebx(31) && (saved & 0xE0) == 0xE0;  // F DQ BW VL
  f.vnni = f.avx512 && (c >> 11 & 1) != 0;
  const bool tiles = (d >> 22 & 1) != 0 && (d >> 24 & 1) != 0 && (d >> 25 & 1) != 0;  // BF16 TILE INT8
  f.amx = f.vnni && tiles && (saved & 0x60000) == 0x60000 && MayUseTiles();
  return f;
}

const Features& Machine() {
  static const Features features = Detect();
  return features;
}

}  // namespace

absl::StatusOr<const KernelTable*> Select(std::string_view isa) {
  const Features& f = Machine();
  if (isa.empty()) {
    const std::vector<const KernelTable*> tables = Available();
    if (!tables.empty()) return tables.back();
    return Error(errors::kDevice,
                 "the cpu backend needs AVX2, FMA and F16C, which this machine or its "
                 "virtual machine does not offer; use --backend reference");
  }
  const auto lacks = [&](const char* what) {
    return Error(errors::kDevice,
                 absl::StrCat("--isa ", absl::string_view(isa.data(), isa.size()), " needs ", what,
                              ", which this machine does not offer; leave --isa away to use "
                              "the widest it has"));
  };
  if (isa == "avx2") {
    if (!f.avx2) return lacks("AVX2, FMA and F16C");
    return &Avx2Kernels();
  }
  if (isa == "avx512") {
    if (!f.avx512) return lacks("AVX-512 F, BW, DQ and VL");
    return &Avx512Kernels();
  }
  if (isa == "vnni") {
    if (!f.vnni) return lacks("AVX-512 VNNI");
    return &VnniKernels();
  }
  if (isa == "amx") {
    if (!f.amx) return lacks("AMX with INT8 and BF16 tiles, and a Linux that grants them (5.16 or newer)");
    return &AmxKernels();
  }
  if (isa == "amx-emulated") {
    if (!f.avx2) return lacks("AVX2, FMA and F16C");
    return &AmxEmulatedKernels();
  }
  return Error(errors::kOption, absl::StrCat("--isa is avx2, avx512, vnni, amx or amx-emulated, not `",
                                             absl::string_view(isa.data(), isa.size()), "`"));
}

std::vector<const KernelTable*> Available() {
  const Features& f = Machine();
  std::vector<const KernelTable*> tables;
  if (f.avx2) tables.push_back(&Avx2Kernels());
  if (f.avx512) tables.push_back(&Avx512Kernels());
  if (f.vnni) tables.push_back(&VnniKernels());
  if (f.amx) tables.push_back(&AmxKernels());
  return tables;
}

std::vector<const KernelTable*> Testable() {
  std::vector<const KernelTable*> tables = Available();
  if (Machine().avx2) tables.push_back(&AmxEmulatedKernels());
  return tables;
}

ExpertsWithoutContractFunction ExpertsWithoutContract(const KernelTable& table) {
  return static_cast<const IsaTable&>(table).experts_without_contract;
}

std::string_view CpuClass() {
  const Features& f = Machine();
  return f.amx ? "AMX" : f.vnni ? "AVX-512 VNNI" : f.avx512 ? "AVX-512" : f.avx2 ? "AVX2" : "below AVX2";
}

}  // namespace paceline::kernels::cpu
