// Vector unit: LANES stored words a cycle, through SGD with momentum or the teacher's average.
//
//   SGD      step   = R(gradient * rate + factor * step + decay * weight), clipped to its store
//            weight = weight - R(step), clipped to its store
//   average  teacher = teacher + R((weight - teacher) * rate), clipped to its store
//
// R drops bits as `first_rounding` and `second_rounding` say; stochastic rounding adds the lane's
// shift register. The register's 16 steps a draw are an XOR network, two draws are a wider one: a
// word that draws twice costs no cycle. Draws follow the words: first the step's, then the weight's.
// With FEEDBACK what R dropped joins the next step, as a residual word: the first are those of the
// step or of the teacher, the second those of the weight.
//
// Words come LANES at a time, each in as many whole bytes as it needs, sign extended. A beat is
// read, worked on in stages 2 to 6 and written from stage 7: `beats` + 7 cycles, from the first
// cycle with `busy` high to the one with `done` high.
module vector_unit #(
    parameter int LANES = 8,
    parameter int REGISTER_BITS = 16,  // of a lane's shift register: 16 or 32
    parameter int MASTER_BITS = 16,    // 2 to 24, as are the next two
    parameter int MOMENTUM_BITS = 16,
    parameter int TEACHER_BITS = 16,
    parameter int GRADIENT_BITS = 32,  // up to 64
    parameter int FEEDBACK = 0,

    localparam int MASTER = (MASTER_BITS + 7) / 8 * 8,
    localparam int MOMENTUM = (MOMENTUM_BITS + 7) / 8 * 8,
    localparam int TEACHER = (TEACHER_BITS + 7) / 8 * 8,
    localparam int GRADIENT = (GRADIENT_BITS + 7) / 8 * 8
) (
    input logic clk,
    input logic rst,

    input  logic                           load,  // `registers_in` into the lanes' registers
    input  logic [LANES*REGISTER_BITS-1:0] registers_in,
    output logic [LANES*REGISTER_BITS-1:0] registers_out,

    // What one pass does; steady from `start` to `done`.
    input logic               start,
    input logic        [31:0] beats,           // at least 1
    input logic               average,         // the teacher's average, not SGD
    input logic        [27:0] rate,            // 24 fractional bits; of an average, a whole number
    input logic        [ 8:0] factor,          // of the momentum, 8 fractional bits
    input logic        [35:0] decay,           // 32 fractional bits
    input logic        [60:0] gradient_limit,  // a product with `rate` stays within 61 bits
    input logic        [ 5:0] push_up,         // shifts that bring a product to the guard bits
    input logic        [ 5:0] push_down,
    input logic        [ 3:0] shift,           // of the average
    input logic        [ 2:0] first_rounding,
    input logic        [ 2:0] second_rounding,

    output logic        busy,
    output logic        done,
    output logic [31:0] read_beat,  // its words are there one cycle later
    input  logic [  LANES*MASTER-1:0] weight_in,
    input  logic [LANES*MOMENTUM-1:0] step_in,
    input  logic [LANES*GRADIENT-1:0] gradient_in,
    input  logic [ LANES*TEACHER-1:0] teacher_in,
    input  logic [      LANES*16-1:0] first_residual_in,
    input  logic [      LANES*16-1:0] second_residual_in,
    output logic        write,
    output logic [31:0] write_beat,
    output logic [  LANES*MASTER-1:0] weight_out,
    output logic [LANES*MOMENTUM-1:0] step_out,
    output logic [ LANES*TEACHER-1:0] teacher_out,
    output logic [      LANES*16-1:0] first_residual_out,
    output logic [      LANES*16-1:0] second_residual_out,
    output logic [23:0] largest  // magnitude written in this pass, one cycle after `done`
);
  typedef logic signed [63:0] wide_t;
  typedef logic [REGISTER_BITS-1:0] register_t;

  // Where the words' last bits lie: a step's is EXTRA bits finer than its weight's.
  localparam int GUARD = 16;  // bits of a step before its one rounding
  localparam int EXTRA = 4 + MOMENTUM_BITS - MASTER_BITS;
  localparam int FINER = TEACHER_BITS > MASTER_BITS ? TEACHER_BITS - MASTER_BITS : 0;
  localparam int COARSE = MASTER_BITS > TEACHER_BITS ? MASTER_BITS - TEACHER_BITS : 0;
  // A rounding drops at least the bits of a residual, where there is one: zeros join from below.
  localparam int RESIDUAL = FEEDBACK != 0 ? 15 : 0;
  localparam int DOWN = EXTRA > 0 ? EXTRA : 0;
  localparam int SECOND_DROP = DOWN > RESIDUAL ? DOWN : RESIDUAL;
  localparam int SECOND_UP = (EXTRA < 0 ? -EXTRA : 0) + SECOND_DROP - DOWN;

  localparam int OPERAND = GRADIENT > 32 ? GRADIENT : 32;  // a distance takes 25 bits
  localparam int LEAP = 16;  // steps of a register a draw
  localparam register_t TAPS = REGISTER_BITS == 32 ? register_t'(32'h80200003)
                                                   : register_t'(16'hB400);
  localparam wide_t MASTER_LIMIT = (64'sd1 << (MASTER_BITS - 1)) - 1;
  localparam wide_t MOMENTUM_LIMIT = (64'sd1 << (MOMENTUM_BITS - 1)) - 1;
  localparam wide_t TEACHER_LIMIT = (64'sd1 << (TEACHER_BITS - 1)) - 1;
  localparam wide_t PUSH_LIMIT = 64'sd1 << 61;
  localparam wide_t RESIDUAL_LIMIT = 64'sd32767;

  localparam logic [2:0] HALF_UP = 1, TRUNCATE = 2, NEAREST_EVEN = 3, PSEUDO_STOCHASTIC = 4;
  localparam logic [2:0] REGISTER = 5;

  function automatic register_t leap(register_t state);
    leap = state;
    for (int i = 0; i < LEAP; i++) leap = (leap >> 1) ^ (leap[0] ? TAPS : '0);
  endfunction

  function automatic wide_t clipped(wide_t value, wide_t limit);
    clipped = value > limit ? limit : value < -limit ? -limit : value;
  endfunction

  function automatic wide_t half_up(wide_t value, logic [5:0] drop);
    half_up = (value + ((64'sd1 << drop) >>> 1)) >>> drop;
  endfunction

  function automatic wide_t rounded(wide_t value, logic [5:0] drop, logic [2:0] rounding,
                                    register_t draw);
    wide_t one, rest, half, noise;
    logic [5:0] low;
    one  = 64'sd1 << drop;
    half = one >>> 1;
    rest = value & (one - 1);
    low  = drop >> 1;
    case (rounding)
      HALF_UP: noise = half;
      NEAREST_EVEN: noise = drop == 0 ? 0 : half - 1 + wide_t'(value[drop]);
      PSEUDO_STOCHASTIC:
      noise = (rest >>> (drop - low)) > (rest & ((64'sd1 << low) - 1)) ? one : 0;
      TRUNCATE: noise = 0;
      default:  // REGISTER
      if (drop > 6'(REGISTER_BITS)) noise = wide_t'({1'b0, draw}) <<< (drop - 6'(REGISTER_BITS));
      else noise = wide_t'({1'b0, draw}) & (one - 1);
    endcase
    rounded = (value + noise) >>> drop;
  endfunction

  // What rounding `value` dropped, in parts of 2**-15 of its last bit.
  function automatic logic signed [15:0] residual(wide_t value, wide_t kept, logic [5:0] drop,
                                                  logic [5:0] finer);
    residual = FEEDBACK == 0
        ? '0 : 16'(clipped(half_up(value - (kept <<< drop), finer), RESIDUAL_LIMIT));
  endfunction

  // A beat moves one stage a cycle: `valid[s]` says that stage s holds one.
  logic issuing;
  logic [7:1] valid;
  always_ff @(posedge clk) begin
    if (rst) begin
      issuing <= 0;
      busy <= 0;
      valid <= '0;
    end else begin
      valid <= {valid[6:1], issuing};
      if (start && !busy) begin
        issuing <= 1;
        busy <= 1;
        read_beat <= '0;
        write_beat <= '0;
      end else begin
        if (issuing) begin
          read_beat <= read_beat + 1;
          issuing <= read_beat != beats - 1;
        end
        if (write) write_beat <= write_beat + 1;
        if (done) busy <= 0;
      end
    end
  end
  assign write = valid[7];
  assign done  = write && write_beat == beats - 1;

  logic [5:0] dropped, first_drop, first_up, first_finer;
  assign dropped = average ? 6'(shift) + 6'(COARSE) : 6'(GUARD);
  assign first_drop = dropped > 6'(RESIDUAL) ? dropped : 6'(RESIDUAL);
  assign first_up = first_drop - dropped;
  assign first_finer = first_drop - 6'(RESIDUAL);

  logic first_draws, second_draws;
  assign first_draws  = first_rounding == REGISTER;
  assign second_draws = second_rounding == REGISTER && !average;

  wide_t magnitude[LANES];
  logic [23:0] most;
  always_comb begin
    most = largest;
    for (int l = 0; l < LANES; l++)
      if (magnitude[l] > wide_t'({1'b0, most})) most = magnitude[l][23:0];
  end
  always_ff @(posedge clk) begin
    if (start && !busy) largest <= '0;
    else if (write) largest <= most;
  end

  for (genvar l = 0; l < LANES; l++) begin : g_lane
    // 1: words as they come
    logic signed [  MASTER-1:0] weight_1, weight_2, weight_3, weight_4, weight_5, weight_6;
    logic signed [MOMENTUM-1:0] step_1, step_2;
    logic signed [GRADIENT-1:0] gradient_1;
    logic signed [ TEACHER-1:0] teacher_1, teacher_2, teacher_3, teacher_4, teacher_5, teacher_6;
    assign weight_1   = weight_in[l*MASTER+:MASTER];
    assign step_1     = step_in[l*MOMENTUM+:MOMENTUM];
    assign gradient_1 = gradient_in[l*GRADIENT+:GRADIENT];
    assign teacher_1  = teacher_in[l*TEACHER+:TEACHER];

    logic signed [15:0] first_1, first_2, first_3, first_4, first_5;
    logic signed [15:0] second_1, second_2, second_3, second_4, second_5, second_6;
    assign first_1  = FEEDBACK != 0 ? first_residual_in[l*16+:16] : '0;
    assign second_1 = FEEDBACK != 0 ? second_residual_in[l*16+:16] : '0;

    logic signed [OPERAND-1:0] operand_2;
    wide_t push_3, push_4, carry_3, carry_4, decay_3, decay_4, sum_5, step_6;
    wide_t whole_5, step_5, whole_6, less_6;
    logic signed [15:0] dropped_5, dropped_6, less_dropped_6;
    wide_t weight_7, teacher_7;
    register_t state, draw_6;

    assign whole_5 = (sum_5 <<< first_up) + (wide_t'(first_5) <<< first_finer);
    assign step_5 = rounded(whole_5, first_drop, first_rounding, state);
    assign dropped_5 = residual(whole_5, step_5, first_drop, first_finer);
    assign whole_6 = (step_6 <<< SECOND_UP) + (wide_t'(second_6) <<< (SECOND_DROP - RESIDUAL));
    assign less_6 = rounded(whole_6, 6'(SECOND_DROP), second_rounding, draw_6);
    assign less_dropped_6 = residual(whole_6, less_6, 6'(SECOND_DROP),
                                     6'(SECOND_DROP - RESIDUAL));
    assign weight_7 = clipped(wide_t'(weight_6) - less_6, MASTER_LIMIT);
    assign teacher_7 = clipped(wide_t'(teacher_6) + step_6, TEACHER_LIMIT);

    always_ff @(posedge clk) begin
      // 2: what is multiplied
      operand_2 <= average
          ? OPERAND'((wide_t'(weight_1) <<< FINER) - (wide_t'(teacher_1) <<< COARSE))
          : OPERAND'(clipped(wide_t'(gradient_1), wide_t'({3'b0, gradient_limit})));
      weight_2 <= weight_1;
      step_2 <= step_1;
      teacher_2 <= teacher_1;
      first_2 <= first_1;
      second_2 <= second_1;
      // 3: products
      push_3 <= wide_t'(operand_2) * wide_t'({1'b0, rate});
      carry_3 <= wide_t'(step_2) * wide_t'({1'b0, factor});
      decay_3 <= wide_t'(weight_2) * wide_t'({1'b0, decay});
      weight_3 <= weight_2;
      teacher_3 <= teacher_2;
      first_3 <= first_2;
      second_3 <= second_2;
      // 4: products in one place: 16 guard bits below the step's last
      push_4 <= half_up(clipped(push_3, PUSH_LIMIT >>> push_up) <<< push_up, push_down);
      carry_4 <= carry_3 <<< 8;
      decay_4 <= half_up(decay_3, 6'(GUARD - EXTRA));
      weight_4 <= weight_3;
      teacher_4 <= teacher_3;
      first_4 <= first_3;
      second_4 <= second_3;
      // 5: their sum, exact
      sum_5 <= average ? push_4 : push_4 + carry_4 + decay_4;
      weight_5 <= weight_4;
      teacher_5 <= teacher_4;
      first_5 <= first_4;
      second_5 <= second_4;
      // 6: the step, rounded; the second draw of a word follows its first
      step_6 <= average ? step_5 : clipped(step_5, MOMENTUM_LIMIT);
      draw_6 <= first_draws ? leap(state) : state;
      dropped_6 <= dropped_5;
      weight_6 <= weight_5;
      teacher_6 <= teacher_5;
      second_6 <= second_5;
      // 7: the new words
      weight_out[l*MASTER+:MASTER] <= weight_7[MASTER-1:0];
      step_out[l*MOMENTUM+:MOMENTUM] <= step_6[MOMENTUM-1:0];
      teacher_out[l*TEACHER+:TEACHER] <= teacher_7[TEACHER-1:0];
      first_residual_out[l*16+:16] <= dropped_6;
      second_residual_out[l*16+:16] <= less_dropped_6;
      magnitude[l] <= average ? (teacher_7 < 0 ? -teacher_7 : teacher_7)
                              : (weight_7 < 0 ? -weight_7 : weight_7);
      // the lane's register moves on by one or two draws, a partly filled beat included
      if (load) state <= registers_in[l*REGISTER_BITS+:REGISTER_BITS];
      else if (valid[5]) begin
        if (first_draws && second_draws) state <= leap(leap(state));
        else if (first_draws || second_draws) state <= leap(state);
      end
    end
    assign registers_out[l*REGISTER_BITS+:REGISTER_BITS] = state;
  end
endmodule
