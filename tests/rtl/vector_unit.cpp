// Passes of the verilated vector unit over arrays in memory, called through ctypes.
#include <cstdint>
#include <cstring>

#include "Vtop.h"
#include "verilated.h"

namespace {

template <typename Port>
void put(Port& port, const uint8_t* words, int64_t beat, int64_t bytes) {
  memcpy(&port, words + beat * bytes, bytes);
}

template <typename Port>
void take(const Port& port, uint8_t* words, int64_t beat, int64_t bytes) {
  memcpy(words + beat * bytes, &port, bytes);
}

void edge(Vtop& unit) {
  unit.clk = 1;
  unit.eval();
  unit.clk = 0;
  unit.eval();
}

// The unit, reset once: passes follow each other as on a machine.
Vtop& powered() {
  static VerilatedContext context;
  static Vtop unit(&context);
  static const bool reset = [] {
    unit.rst = 1;
    edge(unit);
    edge(unit);
    unit.rst = 0;
    return true;
  }();
  (void)reset;
  return unit;
}

}  // namespace

// `pass` holds the control ports in their order, `beat_bytes` the bytes of a beat of the arrays in
// theirs. Returns cycles, or -1 where `limit` comes first.
extern "C" int64_t run(const int64_t* pass, const int64_t* beat_bytes, uint8_t* registers,
                       uint8_t* weights, uint8_t* steps, const uint8_t* gradients,
                       uint8_t* teacher, uint8_t* first_residuals, uint8_t* second_residuals,
                       int64_t* largest, int64_t limit) {
  Vtop& unit = powered();
  put(unit.registers_in, registers, 0, beat_bytes[0]);
  unit.load = 1;
  edge(unit);
  unit.load = 0;
  unit.beats = pass[0];
  unit.average = pass[1];
  unit.rate = pass[2];
  unit.factor = pass[3];
  unit.decay = pass[4];
  unit.gradient_limit = pass[5];
  unit.push_up = pass[6];
  unit.push_down = pass[7];
  unit.shift = pass[8];
  unit.first_rounding = pass[9];
  unit.second_rounding = pass[10];
  unit.start = 1;
  edge(unit);
  unit.start = 0;
  int64_t cycles = 0;
  for (bool done = false; !done; cycles++) {
    if (cycles == limit) return -1;
    done = unit.done;
    const int64_t read = unit.read_beat, written = unit.write_beat;
    if (unit.write) take(unit.first_residual_out, first_residuals, written, beat_bytes[5]);
    if (unit.write && unit.average) take(unit.teacher_out, teacher, written, beat_bytes[4]);
    if (unit.write && !unit.average) {
      take(unit.weight_out, weights, written, beat_bytes[1]);
      take(unit.step_out, steps, written, beat_bytes[2]);
      take(unit.second_residual_out, second_residuals, written, beat_bytes[6]);
    }
    unit.clk = 1;
    unit.eval();
    if (read < unit.beats) {  // a memory with a register at its output
      put(unit.weight_in, weights, read, beat_bytes[1]);
      put(unit.step_in, steps, read, beat_bytes[2]);
      put(unit.gradient_in, gradients, read, beat_bytes[3]);
      put(unit.teacher_in, teacher, read, beat_bytes[4]);
      put(unit.first_residual_in, first_residuals, read, beat_bytes[5]);
      put(unit.second_residual_in, second_residuals, read, beat_bytes[6]);
    }
    unit.clk = 0;
    unit.eval();
  }
  *largest = unit.largest;
  take(unit.registers_out, registers, 0, beat_bytes[0]);
  return cycles;
}
