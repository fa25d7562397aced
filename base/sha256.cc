// SHA-256 by OpenSSL's EVP interface.
#include "base/sha256.h"

#include <openssl/evp.h>

#include "base/check.h"

namespace paceline {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Add(const void* data, size_t bytes) {
  CHECK(EVP_DigestUpdate(state_->context, data, bytes) == 1);
}

std::string Sha256::Hex() const {
  State copy;
  CHECK(EVP_MD_CTX_copy_ex(copy.context, state_->context) == 1);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  CHECK(EVP_DigestFinal_ex(copy.context, digest, &length) == 1);
  std::string hex;
  for (unsigned int i = 0; i < length; ++i) {
    hex += "0123456789abcdef"[digest[i] >> 4];
    hex += "0123456789abcdef"[digest[i] & 15];
  }
  return hex;
}

}  // namespace paceline
