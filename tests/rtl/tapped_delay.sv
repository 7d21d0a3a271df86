// A word some cycles later, 0 to `MOST_CYCLES` of them, chosen while it runs.
module tapped_delay #(
    parameter int BITS        = 8,
    parameter int MOST_CYCLES = 1
) (
    input  logic            clk,
    input  logic            rst,
    input  logic [15:0]     cycles,
    input  logic [BITS-1:0] d,
    output logic [BITS-1:0] q
);
  localparam int INDEX_BITS = (MOST_CYCLES == 0) ? 1 : $clog2(MOST_CYCLES + 1);
  logic [BITS-1:0] stage[MOST_CYCLES+1];
  always_comb stage[0] = d;
  for (genvar i = 1; i <= MOST_CYCLES; i++) begin : g_stage
    delay #(.BITS(BITS), .CYCLES(1)) register (.clk, .rst, .d(stage[i-1]), .q(stage[i]));
  end
  assign q = stage[INDEX_BITS'(cycles)];
endmodule
