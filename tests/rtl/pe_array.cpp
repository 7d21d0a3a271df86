// One matrix product on a verilated array; the operand memories, which answer a cycle later, are here.
#include <cstdint>
#include <cstring>
#include <memory>

#include "Vtop.h"

// Words lie in memory one after the other, each in as many whole bytes as its port has lanes of bits.
struct Memory {
  uint8_t* bytes;
  int64_t word_bytes;
  int64_t words;
};

// Returns the cycles from the first with `busy` to the one that writes the last row, both counted,
// or -1 where that has not happened after `limit` cycles.
extern "C" int64_t run(const Memory* inputs, const Memory* weights, const Memory* sums,
                       const Memory* results, int rows, int columns, int length, int row_folds,
                       int column_folds, int shift, int64_t limit) {
  const auto context = std::make_unique<VerilatedContext>();
  const auto top = std::make_unique<Vtop>(context.get());
  const auto edge = [&] {
    top->clk = 1;
    top->eval();
    top->clk = 0;
    top->eval();
  };
  top->clk = 0;
  top->rst = 1;
  edge();
  top->rst = 0;
  top->rows = rows;
  top->columns = columns;
  top->length = length;
  top->row_folds = row_folds;
  top->column_folds = column_folds;
  top->shift = shift;
  top->start = 1;
  edge();
  top->start = 0;
  top->eval();

  int64_t cycles = 0;
  for (bool done = false; !done;) {
    if (cycles++ == limit) return -1;
    done = top->done;
    const int64_t row = top->result_address;
    if (top->result_valid && row < sums->words) {
      std::memcpy(sums->bytes + row * sums->word_bytes, &top->result_sums, sums->word_bytes);
      std::memcpy(results->bytes + row * results->word_bytes, &top->result_words,
                  results->word_bytes);
    }
    const int64_t input = top->input_address, weight = top->weight_address;
    top->clk = 1;
    top->eval();
    if (input < inputs->words)
      std::memcpy(&top->input_word, inputs->bytes + input * inputs->word_bytes, inputs->word_bytes);
    if (weight < weights->words)
      std::memcpy(&top->weight_word, weights->bytes + weight * weights->word_bytes,
                  weights->word_bytes);
    top->clk = 0;
    top->eval();
  }
  top->final();
  return cycles;
}
