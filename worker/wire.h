// Node messages between protobuf and plain values: the only place besides the service files that sees
// protobuf. What arrives is checked here (ranges, sizes), so that nothing behind trusts a peer's numbers.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "paceline/node/v1/node.pb.h"
#include "worker/join.h"

namespace paceline {

void ToWire(const JoinTerms& terms, node::v1::Terms* out);
JoinTerms FromWire(const node::v1::Terms& terms);

void ToWire(const JoinHello& hello, node::v1::Hello* out);
// NET-004 when the name is empty, too long or not printable.
absl::StatusOr<JoinHello> FromWire(const node::v1::Hello& hello);

void ToWire(const Assignment& assignment, node::v1::Welcome* out);
// NET-004 names the field out of range.
absl::StatusOr<Assignment> FromWire(const node::v1::Welcome& welcome);

// A status as its code and message; a message without a code, or an ok status, is not trusted to be one.
absl::Status StatusFromWire(int status, const std::string& message);

}  // namespace paceline
