// A word `CYCLES` later; no register at all for 0.
module delay #(
    parameter int BITS   = 8,
    parameter int CYCLES = 1
) (
    input  logic            clk,
    input  logic            rst,
    input  logic [BITS-1:0] d,
    output logic [BITS-1:0] q
);
  if (CYCLES == 0) begin : g_wire
    assign q = d;
  end else begin : g_registers
    logic [BITS-1:0] stage[CYCLES];
    always_ff @(posedge clk)
      for (int i = 0; i < CYCLES; i++) stage[i] <= rst ? '0 : (i == 0) ? d : stage[i-1];
    assign q = stage[CYCLES-1];
  end
endmodule
