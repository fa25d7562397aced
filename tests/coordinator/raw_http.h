// HTTP by hand: what a test writes is what the server reads, byte for byte, and the other way round.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"

namespace paceline {

struct RawAnswer {
  int status = 0;
  std::string head;  // with the status line
  std::string body;  // chunks put together
  bool complete = false;

  // The value of a header, or "". `name` in lower case.
  std::string Header(const std::string& name) const {
    const size_t at = head.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "";
    const size_t begin = at + name.size() + 4;
    return head.substr(begin, head.find("\r\n", begin) - begin);
  }
};

class RawConnection {
 public:
  // `receive_bytes`: of the socket's own buffer; 0: the system's choice.
  explicit RawConnection(int port, int receive_bytes = 0) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    CHECK(fd_ >= 0);
    if (receive_bytes > 0)
      CHECK(setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes) == 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  }
  ~RawConnection() { Close(); }
  RawConnection(const RawConnection&) = delete;
  RawConnection& operator=(const RawConnection&) = delete;

  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  // False when the server does not listen any more.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  // Some bytes into the buffer; false at the end of the stream, or when none come for a minute.
  bool Receive() {
    pollfd wait{fd_, POLLIN, 0};
    if (poll(&wait, 1, 60'000) <= 0) return false;
    char piece[16384];
    const ssize_t got = recv(fd_, piece, sizeof piece, 0);
    if (got <= 0) return false;
    buffer_.append(piece, static_cast<size_t>(got));
    return true;
  }
  // Until the buffer holds `text`.
  bool ReceiveUntil(std::string_view text) {
    while (buffer_.find(text) == std::string::npos) {
      if (!Receive()) return false;
    }
    return true;
  }
  // Whether the server has closed; what it still sent is in the buffer.
  bool ReceiveEnd() {
    while (Receive()) {
    }
    pollfd wait{fd_, POLLIN, 0};
    return poll(&wait, 1, 0) > 0;
  }
  // The next answer; `complete` is false when the connection ended inside it.
  RawAnswer Answer(bool head_only = false) {
    RawAnswer answer;
    if (!ReceiveUntil("\r\n\r\n")) return answer;
    const size_t end = buffer_.find("\r\n\r\n");
    answer.head = buffer_.substr(0, end + 2);
    buffer_.erase(0, end + 4);
    answer.status = std::atoi(answer.head.c_str() + sizeof("HTTP/1.1 ") - 1);
    if (answer.status == 100) return Answer(head_only);
    if (head_only) {
      answer.complete = true;
    } else if (answer.Header("transfer-encoding") == "chunked") {
      answer.complete = ReadChunks(&answer.body);
    } else if (const std::string length = answer.Header("content-length"); !length.empty()) {
      const auto bytes = static_cast<size_t>(std::atoll(length.c_str()));
      while (buffer_.size() < bytes && Receive()) {
      }
      answer.complete = buffer_.size() >= bytes;
      answer.body = buffer_.substr(0, bytes);
      buffer_.erase(0, bytes);
    } else {
      answer.complete = ReceiveEnd();
      answer.body = std::exchange(buffer_, {});
    }
    return answer;
  }
  RawAnswer Ask(std::string_view request, bool head_only = false) {
    Send(request);
    return Answer(head_only);
  }
  // The payload of the next chunk of a stream whose head was read; "" at its end.
  std::string Chunk() {
    if (!ReceiveUntil("\r\n")) return "";
    const size_t line = buffer_.find("\r\n");
    const size_t bytes = std::stoul(buffer_.substr(0, line), nullptr, 16);
    buffer_.erase(0, line + 2);
    while (buffer_.size() < bytes + 2 && Receive()) {
    }
    std::string payload = buffer_.substr(0, bytes);
    buffer_.erase(0, bytes + 2);
    return payload;
  }
  const std::string& buffer() const { return buffer_; }
  std::string TakeHead() {
    CHECK(ReceiveUntil("\r\n\r\n"));
    const size_t end = buffer_.find("\r\n\r\n") + 4;
    std::string head = buffer_.substr(0, end);
    buffer_.erase(0, end);
    return head;
  }

 private:
  bool ReadChunks(std::string* body) {
    for (;;) {
      if (!ReceiveUntil("\r\n")) return false;
      const size_t line = buffer_.find("\r\n");
      const size_t bytes = std::stoul(buffer_.substr(0, line), nullptr, 16);
      while (buffer_.size() < line + 2 + bytes + 2) {
        if (!Receive()) {
          body->append(buffer_.substr(line + 2));
          return false;
        }
      }
      body->append(buffer_.substr(line + 2, bytes));
      buffer_.erase(0, line + 2 + bytes + 2);
      if (bytes == 0) return true;
    }
  }

  int fd_;
  std::string buffer_;
};

inline std::string RawGet(const std::string& path, const std::string& headers = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: test\r\n" + headers + "\r\n";
}
inline std::string RawPost(const std::string& path, const std::string& body,
                           const std::string& headers = "") {
  return "POST " + path + " HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n" + headers + "\r\n" + body;
}

}  // namespace paceline
