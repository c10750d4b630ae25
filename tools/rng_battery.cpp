// Feeds the generator of cpp/include/mckean to TestU01: P. L'Ecuyer, R. Simard, "TestU01: A C library for empirical testing
// of random number generators", ACM TOMS 33(4), 2007, doi:10.1145/1268776.1268777. Built and run by tools/rng_battery.py.
//
//   rng_battery SOURCE BATTERY SEED      one line per statistic: name, tab, p-value
//   rng_battery SOURCE dump SEED COUNT   the numbers themselves, raw, to standard output
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <unistd.h>

#include "mckean/random.hpp"

extern "C" {
#include "TestU01.h"
}

namespace {

uint64_t seed, position;

using Block = mk::Words<uint32_t>;

uint32_t low(uint64_t x) { return static_cast<uint32_t>(x); }
uint32_t high(uint64_t x) { return static_cast<uint32_t>(x >> 32); }

Block first_block(uint64_t key, uint64_t counter) {
  return mk::stream_words<uint32_t>(0u, 0u, key, counter, mk::Tag::uniform);
}
Block words_block(uint64_t i) {
  return mk::stream_words<uint32_t>(low(i), high(i), mk::stream_key(seed, 0), 0, mk::Tag::uniform);
}
Block streams_block(uint64_t i) { return first_block(mk::stream_key(seed, i), 0); }
Block counters_block(uint64_t i) { return first_block(mk::stream_key(seed, 0), i); }
Block seeds_block(uint64_t i) { return first_block(mk::stream_key(seed + i, 0), 0); }
// The nodes of a Brownian tree in heap order, 16 lanes each.
Block tree_block(uint64_t i) {
  uint64_t node = 1 + i / 16;
  return mk::philox<uint32_t>(low(node), high(node), low(i % 16), mk::tagged(0, mk::Tag::tree_node), low(seed),
                              high(seed));
}

// The words of successive blocks, one after the other.
template <Block (*block)(uint64_t)>
unsigned int words_of() {
  static Block now;
  uint64_t i = position++;
  if (i % 4 == 0) now = block(i / 4);
  return now.w[i % 4];
}

unsigned int reversed() {
  uint32_t in = words_of<words_block>(), out = 0;
  for (int bit = 0; bit < 32; ++bit) out |= ((in >> bit) & 1u) << (31 - bit);
  return out;
}

// Must fail: shows that the battery has teeth.
unsigned int lcg() {
  static uint32_t x = 1;
  return x = 69069u * x + 1u;
}

double distribution(double z) { return 0.5 * std::erfc(-z * 0.70710678118654752440); }

double uniform() { return mk::stream_number<double>(position++, mk::stream_key(seed, 0), 0, mk::Tag::uniform); }
double normal() { return mk::stream_number<double>(position++, mk::stream_key(seed, 0), 0, mk::Tag::normal); }
double normal_as_uniform() { return distribution(normal()); }
double tree_normal_as_uniform() {
  Block r = tree_block(position / 2);
  mk::NormalPair<double> p = mk::normal_pair<double>(r.w[0], r.w[1]);
  return distribution(position++ % 2 == 0 ? p.z0 : p.z1);
}

struct Source {
  const char* name;
  unsigned int (*bits)();  // one of the two
  double (*real)();
  double (*dumped)();  // what `dump` writes for reals
};
const Source sources[] = {
    {"words", words_of<words_block>, nullptr, nullptr},
    {"reversed", reversed, nullptr, nullptr},
    {"streams", words_of<streams_block>, nullptr, nullptr},
    {"counters", words_of<counters_block>, nullptr, nullptr},
    {"seeds", words_of<seeds_block>, nullptr, nullptr},
    {"tree", words_of<tree_block>, nullptr, nullptr},
    {"uniform", nullptr, uniform, uniform},
    {"normal", nullptr, normal_as_uniform, normal},
    {"tree-normal", nullptr, tree_normal_as_uniform, tree_normal_as_uniform},
    {"lcg", lcg, nullptr, nullptr},
};

int dump(const Source& source, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    uint32_t word = source.bits ? source.bits() : 0;
    double real = source.bits ? 0.0 : source.dumped();
    size_t written =
        source.bits ? std::fwrite(&word, sizeof word, 1, stdout) : std::fwrite(&real, sizeof real, 1, stdout);
    if (written != 1) return 1;
  }
  return 0;
}

int battery(const Source& source, const std::string& name) {
  swrite_Basic = FALSE;
  char* label = const_cast<char*>(source.name);
  unif01_Gen* generator =
      source.bits ? unif01_CreateExternGenBits(label, source.bits) : unif01_CreateExternGen01(label, source.real);
  // TestU01 prints a summary of its own, which goes to standard error; the table goes to standard output.
  std::FILE* table = fdopen(dup(fileno(stdout)), "w");
  dup2(fileno(stderr), fileno(stdout));
  if (name == "smallcrush")
    bbattery_SmallCrush(generator);
  else if (name == "crush")
    bbattery_Crush(generator);
  else if (name == "bigcrush")
    bbattery_BigCrush(generator);
  else
    return 2;
  for (int i = 0; i < bbattery_NTests; ++i)
    if (bbattery_pVal[i] >= 0.0) std::fprintf(table, "%s\t%.17g\n", bbattery_TestNames[i], bbattery_pVal[i]);
  return std::fclose(table) == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc >= 4) {
    seed = std::strtoull(argv[3], nullptr, 10);
    for (const Source& source : sources) {
      if (std::strcmp(source.name, argv[1]) != 0) continue;
      if (std::strcmp(argv[2], "dump") == 0 && argc == 5) return dump(source, std::strtoull(argv[4], nullptr, 10));
      return battery(source, argv[2]);
    }
  }
  std::fprintf(stderr, "usage: rng_battery SOURCE smallcrush|crush|bigcrush SEED | SOURCE dump SEED COUNT\n");
  return 2;
}
