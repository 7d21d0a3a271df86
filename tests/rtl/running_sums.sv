// Rows of sums that are added to what earlier folds left, and written when they are whole.
//
// Rows come in the order of their pixels, `length` of them again and again. A row that is not `fresh`
// is added to the one that its pixel has in a memory of SUM_DEPTH rows, one cycle after it came, in
// an adder of ADDER_LATENCY stages. The memory hands on what is written while it is read, and a row
// may be added to again as it leaves the adder: a pixel can come every ADDER_LATENCY cycles. A row
// that is `whole` is requantised and written one cycle after its last addition.
module running_sums #(
    parameter int LANES            = 4,
    parameter int ACCUMULATOR_BITS = 32,
    parameter int RESULT_BITS      = 8,
    parameter int ADDER_LATENCY    = 1,
    parameter int SUM_DEPTH        = 256
) (
    input  logic                              clk,
    input  logic                              rst,
    input  logic                              clear,         // the next row is the first of all
    input  logic [15:0]                       length,        // pixels, to SUM_DEPTH
    input  logic [5:0]                        shift,
    input  logic                              valid,         // of the row
    input  logic                              fresh,         // nothing to add to
    input  logic                              whole,         // nothing more to be added
    input  logic                              closes,        // of the last rows of a fold
    input  logic [LANES*ACCUMULATOR_BITS-1:0] row,
    output logic                              fold_written,  // the last row of one
    output logic                              result_valid,
    output logic [31:0]                       result_address,
    output logic [LANES*ACCUMULATOR_BITS-1:0] result_sums,
    output logic [LANES*RESULT_BITS-1:0]      result_words
);
  localparam int ADDRESS_BITS = $clog2(SUM_DEPTH);
  typedef struct packed {
    logic        valid;
    logic        fresh;
    logic        whole;
    logic        closes;
    logic [15:0] pixel;
  } tag_t;
  logic [LANES*ACCUMULATOR_BITS-1:0] addend, earlier, stored, total, next_total;
  logic [LANES*ACCUMULATOR_BITS-1:0] waiting[SUM_DEPTH];
  logic [LANES*RESULT_BITS-1:0]      words;
  logic [15:0]                       pixel;
  tag_t                              adding, added;

  always_ff @(posedge clk) begin
    if (rst || clear) pixel <= '0;
    else if (valid) pixel <= (pixel == length - 1) ? '0 : pixel + 1'b1;
    addend <= row;
    adding <= rst ? '0 : {valid, fresh, whole, closes, pixel};
    stored <= (added.valid && added.pixel == pixel) ? total : waiting[ADDRESS_BITS'(pixel)];
    if (added.valid) waiting[ADDRESS_BITS'(added.pixel)] <= total;
  end
  assign earlier =
      adding.fresh ? '0 : (added.valid && added.pixel == adding.pixel) ? total : stored;
  for (genvar i = 0; i < LANES; i++) begin : g_lane
    localparam int LOW = i * ACCUMULATOR_BITS;
    assign next_total[LOW+:ACCUMULATOR_BITS] =
        addend[LOW+:ACCUMULATOR_BITS] + earlier[LOW+:ACCUMULATOR_BITS];
  end
  delay #(.BITS($bits(total)), .CYCLES(ADDER_LATENCY)) adder (
      .clk, .rst, .d(next_total), .q(total));
  delay #(.BITS($bits(adding)), .CYCLES(ADDER_LATENCY)) adding_tags (
      .clk, .rst, .d(adding), .q(added));

  requantise #(
      .LANES(LANES), .ACCUMULATOR_BITS(ACCUMULATOR_BITS), .RESULT_BITS(RESULT_BITS)
  ) requantiser (.shift, .sums(total), .words);
  always_ff @(posedge clk) begin
    result_valid <= !rst && added.valid && added.whole;
    result_sums  <= total;
    result_words <= words;
    fold_written <= !rst && added.valid && added.closes && (added.pixel == length - 1);
    if (rst || clear) result_address <= '0;
    else if (result_valid) result_address <= result_address + 1'b1;
  end
endmodule
