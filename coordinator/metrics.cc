// A snapshot as metric families.
#include "coordinator/metrics.h"

#include <array>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "coordinator/metric_families.h"
#include "coordinator/process_metrics.h"

namespace paceline {
namespace {

double Value(int64_t count) { return static_cast<double>(count); }

SourceStats Sum(const SpeculationCounters& speculation) {
  SourceStats sum;
  for (const SourceStats& source : speculation.sources) {
    sum.steps += source.steps;
    sum.drafted += source.drafted;
    sum.accepted += source.accepted;
    for (size_t i = 0; i < sum.accepted_per_position.size(); ++i)
      sum.accepted_per_position[i] += source.accepted_per_position[i];
  }
  return sum;
}

// The page in the making.
class Page {
 public:
  Page(const MetricsSnapshot& snapshot, const MetricsOptions& options)
      : now_(snapshot),
        options_(options),
        vllm_({{"engine", "0"}, {"model_name", snapshot.model.model}}),
        own_({{"model", snapshot.model.model}}) {}

  std::string Make() {
    Load();
    Requests();
    Latency();
    Speculation();
    Steps();
    Caches();
    Cluster();
    Calls();
    Process();
    return families_.Text();
  }

 private:
  using Write = std::function<void(const MetricLabels& common)>;
  using Sample = std::function<void(double value, const MetricLabels& labels)>;

  static MetricLabels Joined(MetricLabels labels, const MetricLabels& more) {
    labels.insert(more.begin(), more.end());
    return labels;
  }
  void Own(const std::string& name, const std::string& help, MetricType type, const Write& write) {
    families_.Begin("paceline_" + name, help, type);
    write(own_);
  }
  // What vLLM has too, under both names. Its client library appends _total to counters.
  void Both(const std::string& name, const std::string& help, MetricType type, const Write& write) {
    if (options_.vllm_names) {
      families_.Begin("vllm:" + name, help, type);
      write(vllm_);
    }
    Own(name, help, type, write);
  }
  Write One(double value) {
    return [this, value](const MetricLabels& common) { families_.Add(value, common); };
  }
  Write One(const Histogram& histogram) {
    return [this, &histogram](const MetricLabels& common) { AddHistogram(histogram, common); };
  }
  void AddHistogram(const Histogram& histogram, const MetricLabels& labels) {
    families_.AddHistogram(histogram.counts, histogram.bounds, histogram.sum, labels);
  }
  // One sample per entry of `counts`, under a label.
  Write Several(const std::map<std::string, double>& counts, const std::string& label) {
    return [this, counts, label](const MetricLabels& common) {
      for (const auto& [name, value] : counts) families_.Add(value, Joined(common, {{label, name}}));
    };
  }

  void Load() {
    const EngineStats& e = now_.engine;
    Both("num_requests_running", "Requests in the running batch.", MetricType::kGauge, One(e.running));
    Both("num_requests_waiting", "Requests that wait for a slot or for pages.", MetricType::kGauge,
         One(e.waiting));
    Own("max_requests_running", "Requests that may run at once.", MetricType::kGauge, One(e.max_running));
    Both("kv_cache_usage_perc", "KV pages in use, 1 meaning all.", MetricType::kGauge,
         One(e.pages_total > 0 ? Value(e.pages_used) / Value(e.pages_total) : 0.0));
    Both("cache_config_info", "KV pages: positions of one, and their number.", MetricType::kGauge,
         [&](const MetricLabels& common) {
           families_.Add(1, Joined(common, {{"block_size", std::to_string(kPagePositions)},
                                            {"num_gpu_blocks", std::to_string(e.pages_total)}}));
         });
    Both("num_preemptions_total", "Times a running request had to give its place back.", MetricType::kCounter,
         One(Value(e.scheduling.preemptions)));
  }

  void Requests() {
    const ServingCounters& s = now_.engine.serving;
    Both("prompt_tokens_total", "Tokens of prompts whose first token came.", MetricType::kCounter,
         One(Value(s.prompt_tokens)));
    Both("generation_tokens_total", "Tokens generated.", MetricType::kCounter,
         One(Value(now_.engine.tokens)));
    std::map<std::string, double> ended;
    for (size_t i = 0; i < kRequestEnds; ++i)
      ended[RequestEndName(static_cast<RequestEnd>(i))] = Value(s.ended[i]);
    Both("request_success_total", "Requests that were taken, by how they ended.", MetricType::kCounter,
         Several(ended, "finished_reason"));
    const auto by_reason = [&](const std::map<std::string, int64_t, std::less<>>& counts) {
      return Several({counts.begin(), counts.end()}, "reason");
    };
    Own("request_failures_total", "Requests that were taken and failed.", MetricType::kCounter,
        by_reason(s.failed));
    std::map<std::string, double> refused(now_.refused.begin(), now_.refused.end());
    for (const std::string& reason : KnownRefusals()) refused.try_emplace(reason, 0);
    Own("requests_refused_total", "Requests that were not taken.", MetricType::kCounter,
        Several(refused, "reason"));
    Both("request_prompt_tokens", "Tokens of a request's prompt.", MetricType::kHistogram,
         One(s.request_prompt_tokens));
    Both("request_generation_tokens", "Tokens a request generated.", MetricType::kHistogram,
         One(s.request_generation_tokens));
  }

  void Latency() {
    const ServingCounters& s = now_.engine.serving;
    const auto seconds = [&](const std::string& name, const std::string& help, const Histogram& histogram) {
      Both(name, help, MetricType::kHistogram, One(histogram));
    };
    seconds("time_to_first_token_seconds", "From a request's arrival to its first token.", s.first_token_s);
    seconds("inter_token_latency_seconds",
            "From one token to the next; tokens of one step share the time since the step before.",
            s.inter_token_s);
    seconds("request_time_per_output_token_seconds", "Of a request, from its first token to its last.",
            s.per_token_s);
    seconds("e2e_request_latency_seconds", "From a request's arrival to its end.", s.total_s);
    seconds("request_queue_time_seconds", "From a request's arrival to its first step.", s.queue_s);
    seconds("request_prefill_time_seconds", "From a request's first step to its first token.", s.prefill_s);
    seconds("request_decode_time_seconds", "From a request's first token to its last.", s.decode_s);
    seconds("request_inference_time_seconds", "From a request's first step to its last token.",
            s.inference_s);
  }

  void Speculation() {
    const SpeculationCounters& s = now_.engine.speculation;
    const SourceStats sum = Sum(s);
    // All drafters together for vLLM, each by itself for us.
    const auto by_source = [&](const std::string& name, const std::string& help,
                               const std::function<void(const SourceStats&, const Sample&)>& write) {
      const auto add = [&](const SourceStats& stats, const MetricLabels& common) {
        write(stats, [&](double value, const MetricLabels& labels) {
          families_.Add(value, Joined(common, labels));
        });
      };
      if (options_.vllm_names) {
        families_.Begin("vllm:" + name, help, MetricType::kCounter);
        add(sum, vllm_);
      }
      families_.Begin("paceline_" + name, help, MetricType::kCounter);
      for (const DraftSource source : {DraftSource::kMtp, DraftSource::kSuffix})
        add(s.sources[IndexOf(source)], Joined(own_, {{"source", DraftSourceName(source)}}));
    };
    const auto count = [](int64_t SourceStats::* what) {
      return [what](const SourceStats& stats, const Sample& add) { add(Value(stats.*what), {}); };
    };
    by_source("spec_decode_num_drafts_total", "Drafts: verify steps of a request.",
              count(&SourceStats::steps));
    by_source("spec_decode_num_draft_tokens_total", "Tokens drafted and verified.",
              count(&SourceStats::drafted));
    by_source("spec_decode_num_accepted_tokens_total", "Drafted tokens that were right.",
              count(&SourceStats::accepted));
    by_source("spec_decode_num_accepted_tokens_per_pos_total",
              "Drafted tokens that were right, by position in the draft.",
              [](const SourceStats& stats, const Sample& add) {
                for (size_t i = 0; i < stats.accepted_per_position.size(); ++i)
                  add(Value(stats.accepted_per_position[i]), {{"position", std::to_string(i)}});
              });
    families_.Begin("paceline_spec_acceptance_length",
                    "Drafts that were right in a verify step of a request.", MetricType::kHistogram);
    for (const DraftSource source : {DraftSource::kMtp, DraftSource::kSuffix}) {
      const SourceStats& stats = s.sources[IndexOf(source)];
      AddCounts(stats.histogram, Joined(own_, {{"source", DraftSourceName(source)}}));
    }
    families_.Begin("paceline_draft_depth",
                    "Drafts verified in a step that brought a request tokens; 0 is plain.",
                    MetricType::kHistogram);
    AddCounts(s.depths, own_);
    Own("decode_steps_total", "Steps that brought a request tokens, its prompt's last among them.",
        MetricType::kCounter, One(Value(s.decode_steps)));
    Own("draft_seconds_total", "Time spent drafting.", MetricType::kCounter, One(s.draft_s));
    Own("verify_seconds_total", "Time of steps with drafts, drafting aside.", MetricType::kCounter,
        One(s.verify_s));
  }
  // `counts[k]`: how often k was seen. The open bucket stays empty.
  void AddCounts(const std::array<int64_t, kMaxDraft + 1>& counts, const MetricLabels& labels) {
    std::array<int64_t, kMaxDraft + 2> buckets{};
    std::array<double, kMaxDraft + 1> bounds{};
    double sum = 0;
    for (size_t k = 0; k < bounds.size(); ++k) {
      bounds[k] = static_cast<double>(k);
      buckets[k] = counts[k];
      sum += bounds[k] * Value(counts[k]);
    }
    families_.AddHistogram(buckets, bounds, sum, labels);
  }

  void Steps() {
    const EngineStats& e = now_.engine;
    Own("steps_total", "Steps of the trunk.", MetricType::kCounter, One(Value(e.steps)));
    Own("rows_total", "Rows run: prompts, decoding and verified drafts.", MetricType::kCounter,
        One(Value(e.rows)));
    Both("iteration_tokens_total", "Rows of a step.", MetricType::kHistogram, One(e.serving.step_rows));
    Own("step_seconds", "Time of a step, by what it was for.", MetricType::kHistogram,
        [&](const MetricLabels& common) {
          for (size_t kind = 0; kind < kStepKinds; ++kind) {
            AddHistogram(e.serving.step_s[kind],
                         Joined(common, {{"kind", StepKindName(static_cast<StepKind>(kind))}}));
          }
        });
    Own("ep_phase_seconds", "Time a step spent in a phase.", MetricType::kHistogram,
        [&](const MetricLabels& common) {
          for (size_t phase = 0; phase < kStepPhases; ++phase) {
            AddHistogram(e.serving.phase_s[phase],
                         Joined(common, {{"phase", StepPhaseName(static_cast<StepPhase>(phase))}}));
          }
        });
    Own("distinct_experts", "Experts of a layer that the rows of a step visited.", MetricType::kHistogram,
        [&](const MetricLabels& common) {
          for (size_t layer = 0; layer < e.distinct_experts.size(); ++layer) {
            const ExpertHistogram& histogram = e.distinct_experts[layer];
            const std::vector<double> bounds(ExpertHistogram::kBounds.begin(),
                                             ExpertHistogram::kBounds.end());
            families_.AddHistogram(histogram.counts, bounds, Value(histogram.sum),
                                   Joined(common, {{"layer", std::to_string(layer)}}));
          }
        });
    Own("expert_load_imbalance",
        "Leaves of the busiest node over the mean of all nodes, by layer; the last hundred steps or so.",
        MetricType::kGauge, [&](const MetricLabels& common) {
          const auto nodes = Value(static_cast<int64_t>(now_.cluster.nodes.size()));
          for (size_t layer = 0; layer < e.serving.imbalance.size(); ++layer) {
            const ServingCounters::Imbalance& sums = e.serving.imbalance[layer];
            families_.Add(sums.all > 0 ? sums.busiest * nodes / sums.all : 1.0,
                          Joined(common, {{"layer", std::to_string(layer)}}));
          }
        });
  }

  void Caches() {
    const EngineStats& e = now_.engine;
    Both("prefix_cache_queries_total", "Prompt tokens of requests that asked the prefix cache.",
         MetricType::kCounter, One(Value(e.scheduling.prefix_queries)));
    Both("prefix_cache_hits_total", "Of them found.", MetricType::kCounter,
         One(Value(e.scheduling.prefix_hits)));
    Own("kv_pages", "KV pages of 256 positions, by what they are to the running requests.",
        MetricType::kGauge,
        Several({{"held", e.pages_used}, {"free", e.pages_total - e.pages_used}}, "state"));
    Own("prefix_cache_pages", "KV pages with text to go on from.", MetricType::kGauge, One(e.pages_cached));
    Own("prefix_cache_snapshots", "States stored at page borders.", MetricType::kGauge,
        Several({{"used", e.snapshots}, {"free", e.snapshots_total - e.snapshots}}, "state"));
  }

  void Cluster() {
    families_.Begin("paceline_state", "1 for the state the head is in.", MetricType::kGauge);
    for (const ClusterState state :
         {ClusterState::kLoading, ClusterState::kReady, ClusterState::kDegraded, ClusterState::kDraining}) {
      families_.Add(state == now_.state ? 1 : 0, Joined(own_, {{"state", ClusterStateName(state)}}));
    }
    Own("cluster_epoch", "Epoch of the placement: it grows when a worker takes a lost one's place.",
        MetricType::kGauge, One(Value(static_cast<int64_t>(now_.cluster.epoch.value()))));
    const auto by_node = [&](const std::string& name, const std::string& help, MetricType type,
                             const std::function<double(const NodeFacts&)>& value) {
      families_.Begin("paceline_" + name, help, type);
      for (const NodeFacts& node : now_.cluster.nodes) families_.Add(value(node), NodeLabels(node));
    };
    by_node("node_up", "1 when the node is loaded and has not been lost.", MetricType::kGauge,
            [](const NodeFacts& node) { return node.state == NodeState::kReady ? 1.0 : 0.0; });
    by_node("node_last_heartbeat_seconds", "Since the node's last heartbeat; 0 for the head.",
            MetricType::kGauge, [](const NodeFacts& node) { return node.silence_s; });
    by_node("node_experts", "(layer, expert) pairs of which the node holds a part.", MetricType::kGauge,
            [](const NodeFacts& node) { return Value(node.experts); });
    by_node("node_leaves", "(layer, expert, group) triples the node holds.", MetricType::kGauge,
            [](const NodeFacts& node) { return Value(node.leaves); });
    by_node("node_expert_bytes", "Expert weights the node holds.", MetricType::kGauge,
            [](const NodeFacts& node) { return Value(node.bytes); });
    by_node("model_load_bytes", "Weights the node has read.", MetricType::kGauge,
            [](const NodeFacts& node) { return Value(node.load_bytes); });
    by_node("model_load_total_bytes", "Weights the node has to read; 0 until it knows.", MetricType::kGauge,
            [](const NodeFacts& node) { return Value(node.load_total); });
    Exchange();
  }

  void Exchange() {
    const ExchangeCounters& exchange = now_.engine.exchange;
    Own("ep_exchanges_total", "Layer exchanges with workers.", MetricType::kCounter,
        One(Value(exchange.layers)));
    Own("ep_wait_seconds_total", "Time the head waited for sums after its own work was done.",
        MetricType::kCounter, One(exchange.seconds));
    families_.Begin("paceline_ep_bytes_total", "Bytes on the head's links to a node, headers included.",
                    MetricType::kCounter);
    EachPeer([&](const PeerCounters& peer, const NodeFacts& node) {
      families_.Add(Value(peer.sent_bytes), Joined(NodeLabels(node), {{"direction", "sent"}}));
      families_.Add(Value(peer.received_bytes), Joined(NodeLabels(node), {{"direction", "received"}}));
    });
    families_.Begin("paceline_ep_straggler_seconds_total",
                    "Time the head waited for this node alone, all others having answered.",
                    MetricType::kCounter);
    EachPeer([&](const PeerCounters& peer, const NodeFacts& node) {
      families_.Add(peer.straggler_s, NodeLabels(node));
    });
    Links();
  }
  // What has not been measured, or is no more, has no sample.
  void Links() {
    const auto labels = [this](const NodeFacts& node) {
      return Joined(NodeLabels(node), {{"interface", node.interface}});
    };
    families_.Begin("paceline_link_rtt_seconds", "Round trip of an empty frame to a node and back.",
                    MetricType::kGauge);
    EachPeer([&](const PeerCounters& peer, const NodeFacts& node) {
      if (peer.rtt_s > 0) families_.Add(peer.rtt_s, labels(node));
    });
    families_.Begin("paceline_link_bandwidth_bytes", "Bytes a second of a large frame to a node or back.",
                    MetricType::kGauge);
    EachPeer([&](const PeerCounters& peer, const NodeFacts& node) {
      if (peer.sent_bytes_per_s == 0) return;
      families_.Add(peer.sent_bytes_per_s, Joined(labels(node), {{"direction", "sent"}}));
      families_.Add(peer.received_bytes_per_s, Joined(labels(node), {{"direction", "received"}}));
    });
  }
  void EachPeer(const std::function<void(const PeerCounters&, const NodeFacts&)>& write) {
    const std::vector<PeerCounters>& peers = now_.engine.exchange.peers;
    for (const NodeFacts& node : now_.cluster.nodes) {
      const auto rank = static_cast<size_t>(node.rank);
      if (rank > 0 && rank <= peers.size()) write(peers[rank - 1], node);
    }
  }
  MetricLabels NodeLabels(const NodeFacts& node) const {
    return Joined(
        own_,
        {{"node", node.name}, {"rank", std::to_string(node.rank)}, {"role", node.head ? "head" : "worker"}});
  }

  void Calls() {
    families_.Begin("paceline_api_calls_total", "Calls of the API that ended, by front, call and code.",
                    MetricType::kCounter);
    for (const auto& [name, count] : now_.calls) {
      families_.Add(Value(count),
                    Joined(own_, {{"api", name.api}, {"call", name.call}, {"code", name.code}}));
    }
  }

  void Process() {
    families_.Begin("paceline_build_info", "1; what is running.", MetricType::kGauge);
    families_.Add(1, Joined(own_, {{"version", options_.version}, {"fingerprint", now_.model.fingerprint}}));
    AddProcessMetrics(now_.process, own_, families_);
  }

  const MetricsSnapshot& now_;
  const MetricsOptions& options_;
  const MetricLabels vllm_;
  const MetricLabels own_;
  MetricFamilies families_;
};

}  // namespace

MetricsSnapshot TakeSnapshot(const Engine& engine, const ClusterView& cluster, const ServingState& state) {
  MetricsSnapshot now;
  now.engine = engine.stats();
  now.refused = engine.refusals();
  now.model = engine.info();
  now.cluster = cluster.Facts();
  now.state = state.Now();
  now.calls = state.calls()->counts();
  now.process = ReadProcessFacts();
  return now;
}

std::string MetricsText(const MetricsSnapshot& snapshot, const MetricsOptions& options) {
  return Page(snapshot, options).Make();
}

}  // namespace paceline
