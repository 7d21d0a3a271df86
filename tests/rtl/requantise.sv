// A row of sums to result words: shifted right, rounded half up, saturated. Combinational.
// Words are symmetric, as the kernels': their most negative code is unused.
module requantise #(
    parameter int LANES            = 4,
    parameter int ACCUMULATOR_BITS = 32,
    parameter int RESULT_BITS      = 8
) (
    input  logic [5:0]                        shift,
    input  logic [LANES*ACCUMULATOR_BITS-1:0] sums,
    output logic [LANES*RESULT_BITS-1:0]      words
);
  localparam int BITS = ACCUMULATOR_BITS + 1;  // the half that rounds may carry
  localparam logic signed [BITS-1:0] HIGH = (BITS'(1) <<< (RESULT_BITS - 1)) - 1;
  localparam logic signed [BITS-1:0] LOW  = -HIGH;
  logic signed [BITS-1:0] half;
  assign half = (shift == 0) ? '0 : (BITS'(1) <<< (shift - 6'd1));
  for (genvar i = 0; i < LANES; i++) begin : g_lane
    logic signed [BITS-1:0] exact, rounded;
    assign exact   = BITS'($signed(sums[i*ACCUMULATOR_BITS+:ACCUMULATOR_BITS]));
    assign rounded = (exact + half) >>> shift;
    assign words[i*RESULT_BITS+:RESULT_BITS] =
        (rounded > HIGH) ? HIGH[RESULT_BITS-1:0] :
        (rounded < LOW) ? LOW[RESULT_BITS-1:0] : rounded[RESULT_BITS-1:0];
  end
endmodule
