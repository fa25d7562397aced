// Scanning a folder, the index's requirements, and the digest that nodes compare.
#include "model/tensor_store.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/sha256.h"
#include "base/status.h"
#include "model/json_guard.h"
#include "nlohmann/json.hpp"

namespace paceline {
namespace {

constexpr int64_t kSamples = 64;
constexpr int64_t kSampleBytes = 4096;

std::string BaseName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

}  // namespace

std::string StoredTensor::Describe() const {
  return absl::StrCat(Printable(entry->name), " (", TypeText(*entry), " in ", file->path(), ")");
}

absl::StatusOr<TensorStore> TensorStore::Open(const std::string& directory) {
  TensorStore store;
  store.directory_ = directory;
  std::vector<std::string> paths;
  std::error_code failure;
  for (std::filesystem::directory_iterator it(directory, failure), end; !failure && it != end;
       it.increment(failure)) {
    if (it->path().extension() == ".safetensors") paths.push_back(it->path().string());
  }
  if (failure)
    return Error(errors::kModelMissing, absl::StrCat(directory, ": cannot be listed: ", failure.message()));
  if (paths.empty()) {
    return Error(errors::kModelMissing,
                 absl::StrCat(directory, ": expected at least one *.safetensors file; there is none"));
  }
  std::sort(paths.begin(), paths.end());
  size_t count = 0;
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, SafetensorsFile::Open(path));
    count += file->entries().size();
    file->set_number(static_cast<int32_t>(store.files_.size()));
    store.files_.push_back(std::move(file));
  }
  store.tensors_.reserve(count);
  for (const auto& file : store.files_) {
    for (const TensorEntry& entry : file->entries()) {
      const auto [at, fresh] = store.tensors_.try_emplace(entry.name, StoredTensor{file.get(), &entry});
      if (!fresh) {
        return Error(errors::kModelTensor,
                     absl::StrCat(Printable(entry.name), " lies in two files: ", at->second.file->path(),
                                  " and ", file->path(), "; remove one of them"));
      }
    }
  }
  RETURN_IF_ERROR(store.CheckIndex());
  return store;
}

StoredTensor TensorStore::Find(std::string_view full_name) const {
  const auto at = tensors_.find(full_name);
  return at == tensors_.end() ? StoredTensor{} : at->second;
}

absl::Status TensorStore::CheckIndex() const {
  const std::string path = absl::StrCat(directory_, "/model.safetensors.index.json");
  if (std::error_code failure; !std::filesystem::exists(path, failure)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxHeaderBytes, errors::kModelFile));
  ASSIGN_OR_RETURN(const nlohmann::json root, ParseJson(text, kMaxHeaderBytes, errors::kModelFile, path));
  const auto map = root.is_object() ? root.find("weight_map") : root.end();
  if (map == root.end() || !map->is_object()) {
    return Error(errors::kModelFile,
                 absl::StrCat(path, ": expected an object \"weight_map\" of tensor names to files"));
  }
  absl::flat_hash_set<std::string> there;
  for (const auto& file : files_) there.insert(BaseName(file->path()));
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string()) {
      return Error(errors::kModelFile,
                   absl::StrCat(path, ": weight_map: ", Printable(name), ": expected a file name"));
    }
    const auto& file_name = file.get_ref<const std::string&>();
    if (!there.contains(file_name)) {
      return Error(errors::kModelTensor,
                   absl::StrCat(path, " places ", Printable(name), " in ", Printable(file_name),
                                ", which is not in the folder; download it"));
    }
    if (!Find(name).present()) {
      return Error(errors::kModelTensor,
                   absl::StrCat(path, " places ", Printable(name), " in ", Printable(file_name),
                                ", but no *.safetensors file has that tensor"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> TensorStore::Digest(std::string_view config_text) const {
  Sha256 digest;
  digest.Add(absl::StrCat("config ", config_text.size(), "\n"));
  digest.Add(config_text);
  std::string sample;
  for (const auto& file : files_) {
    digest.Add(absl::StrCat("file ", BaseName(file->path()), " ", file->file_bytes(), " ",
                            file->header_digest(), "\n"));
    const int64_t bytes = std::min(kSampleBytes, file->file_bytes());
    sample.resize(static_cast<size_t>(bytes));
    const int64_t last = file->file_bytes() - bytes;
    for (int64_t i = 0; i < kSamples; ++i) {
      // Whole part and remainder apart: the product itself would overflow for files beyond 2^57 bytes.
      const int64_t position = last / (kSamples - 1) * i + last % (kSamples - 1) * i / (kSamples - 1);
      RETURN_IF_ERROR(file->ReadAt(position, bytes, sample.data()));
      digest.Add(sample);
    }
  }
  return digest.Hex();
}

}  // namespace paceline
