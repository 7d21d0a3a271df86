// Channel broadcast: (m, taps * channels) @ (taps * channels, n), n = rows * row_folds, channels =
// columns * column_folds, on the first `rows` and `columns` of the array.
//
//   input memory, COLUMNS lanes a word, at (i*TAPS + tap)*m + j:
//                          inputs[j, tap, i*columns + lane]
//   weight memory, ROWS * COLUMNS lanes a word, at (j*column_folds + i)*TAPS + tap:
//                          weights[tap, i*columns + lane % COLUMNS, j*rows + lane / COLUMNS]
//   results, ROWS lanes a row, at j*m + i:  of pixel i, fold row j
//
// Both memories answer one cycle after the address. In a cycle one pixel under one tap is broadcast
// to all rows; the products of a row are added by a tree, and the row of tree results to the sums of
// the pixel. A tap visits all pixels, so a sum is due again after `length` cycles, or ADDER_LATENCY
// where the adder takes longer. With OVERLAP a fold follows the one before without a pause, else it
// starts when the last row of sums has been written.
module channel_broadcast #(
    parameter int ROWS               = 4,
    parameter int COLUMNS            = 4,
    parameter int OPERAND_BITS       = 8,
    parameter int ACCUMULATOR_BITS   = 32,
    parameter int RESULT_BITS        = 8,
    parameter int OVERLAP            = 1,
    parameter int PARTS              = 1,  // else all rows and columns are always in use
    parameter int MULTIPLIER_LATENCY = 1,
    parameter int ADDER_LATENCY      = 1,
    parameter int TAPS               = 1,
    parameter int SUM_DEPTH          = 256
) (
    input  logic                                 clk,
    input  logic                                 rst,
    input  logic                                 start,
    input  logic [15:0]                          rows,          // in use, with PARTS
    input  logic [15:0]                          columns,
    input  logic [15:0]                          length,        // pixels: m, to SUM_DEPTH
    input  logic [15:0]                          row_folds,
    input  logic [15:0]                          column_folds,
    input  logic [5:0]                           shift,
    output logic                                 busy,
    output logic                                 done,          // the last row is being written
    output logic [31:0]                          input_address,
    output logic [31:0]                          weight_address,
    input  logic [COLUMNS*OPERAND_BITS-1:0]      input_word,
    input  logic [ROWS*COLUMNS*OPERAND_BITS-1:0] weight_word,
    output logic                                 result_valid,
    output logic [31:0]                          result_address,
    output logic [ROWS*ACCUMULATOR_BITS-1:0]     result_sums,
    output logic [ROWS*RESULT_BITS-1:0]          result_words
);
  logic [15:0] used_columns;
  assign used_columns = (PARTS != 0) ? columns : 16'(COLUMNS);
  // ------------------------------------------------------------ sequencer: one slot a visit of all pixels
  logic        active, issue, slot_end, fold_written, last_tap, last_column_fold, last_row_fold;
  logic [31:0] slot, slot_cycles, input_base;
  logic [15:0] tap, column_fold, row_fold;

  assign last_tap         = tap == 16'(TAPS - 1);
  assign last_column_fold = column_fold == column_folds - 1;
  assign last_row_fold    = row_fold == row_folds - 1;
  assign slot_cycles      = (32'(length) < ADDER_LATENCY) ? ADDER_LATENCY : 32'(length);
  assign slot_end = (OVERLAP == 0 && last_tap) ? fold_written : (slot == slot_cycles - 1);
  assign issue    = active && (slot < 32'(length));
  assign input_address = input_base + slot;

  always_ff @(posedge clk) begin
    if (rst || (start && !busy)) begin
      active         <= !rst;
      slot           <= '0;
      tap            <= '0;
      column_fold    <= '0;
      row_fold       <= '0;
      input_base     <= '0;
      weight_address <= '0;
    end else if (active && !slot_end) begin
      slot <= slot + 1'b1;
    end else if (active) begin
      slot           <= '0;
      weight_address <= weight_address + 1'b1;
      input_base     <= (last_tap && last_column_fold) ? '0 : input_base + 32'(length);
      tap            <= last_tap ? '0 : tap + 1'b1;
      if (last_tap) begin
        column_fold <= last_column_fold ? '0 : column_fold + 1'b1;
        if (last_column_fold) row_fold <= row_fold + 1'b1;
        active <= !(last_column_fold && last_row_fold);
      end
    end
  end

  // ------------------------------------------------------------ units, and a tree for each row
  localparam int LEVELS     = $clog2(COLUMNS);
  localparam int WIDTH      = 1 << LEVELS;  // leaves of a tree
  localparam int LEVEL_BITS = (LEVELS == 0) ? 1 : $clog2(LEVELS + 1);
  typedef struct packed {
    logic valid;
    logic fresh;   // the first visit of the sums: nothing to add to
    logic whole;   // the last: the sums are results
    logic closes;  // the last visit of a fold
  } marks_t;
  marks_t                           marks, row_marks;
  logic [ROWS*ACCUMULATOR_BITS-1:0] row;
  logic [OPERAND_BITS-1:0]          inputs[COLUMNS];
  logic [15:0]                      level;  // at which the products of all columns in use are added

  always_ff @(posedge clk)
    marks <= rst ? '0 :
        {issue, tap == 0 && column_fold == 0, last_tap && last_column_fold, last_tap};
  always_comb begin
    level = '0;
    for (int i = 0; i < LEVELS; i++) if (32'(used_columns) > (1 << i)) level = 16'(i + 1);
  end

  for (genvar c = 0; c < COLUMNS; c++) begin : g_input
    always_ff @(posedge clk)
      inputs[c] <= (used_columns > c) ? input_word[c*OPERAND_BITS+:OPERAND_BITS] : '0;
  end
  for (genvar r = 0; r < ROWS; r++) begin : g_row
    logic signed [ACCUMULATOR_BITS-1:0] nodes[LEVELS+1][WIDTH];
    logic        [ACCUMULATOR_BITS-1:0] roots[LEVELS+1];
    for (genvar c = 0; c < WIDTH; c++) begin : g_unit
      if (c < COLUMNS) begin : g_multiplier
        logic [OPERAND_BITS-1:0]          weight;
        logic signed [2*OPERAND_BITS-1:0] exact, product;
        always_ff @(posedge clk)
          weight <= weight_word[(r*COLUMNS+c)*OPERAND_BITS+:OPERAND_BITS];
        assign exact = $signed(inputs[c]) * $signed(weight);
        delay #(.BITS(2 * OPERAND_BITS), .CYCLES(MULTIPLIER_LATENCY)) multiplier (
            .clk, .rst, .d(exact), .q(product));
        assign nodes[0][c] = ACCUMULATOR_BITS'(product);
      end else begin : g_no_column
        assign nodes[0][c] = '0;
      end
    end
    for (genvar l = 0; l < LEVELS; l++) begin : g_level
      for (genvar i = 0; i < WIDTH; i++) begin : g_node
        if (i < (WIDTH >> (l + 1))) begin : g_adder
          delay #(.BITS(ACCUMULATOR_BITS), .CYCLES(ADDER_LATENCY)) adder (
              .clk, .rst, .d(nodes[l][2*i] + nodes[l][2*i+1]), .q(nodes[l+1][i]));
        end else begin : g_no_node
          assign nodes[l+1][i] = '0;
        end
      end
    end
    for (genvar l = 0; l <= LEVELS; l++) begin : g_root
      assign roots[l] = nodes[l][0];
    end
    assign row[r*ACCUMULATOR_BITS+:ACCUMULATOR_BITS] = roots[LEVEL_BITS'(level)];
  end

  // ------------------------------------------------------------ rows, added to earlier sums
  localparam int LEAVES_AFTER = 1 + MULTIPLIER_LATENCY;  // an operand register, a product
  tapped_delay #(.BITS($bits(marks)), .MOST_CYCLES(LEAVES_AFTER + LEVELS * ADDER_LATENCY)) crossing (
      .clk, .rst, .cycles(16'(LEAVES_AFTER) + level * 16'(ADDER_LATENCY)), .d(marks),
      .q(row_marks));
  running_sums #(
      .LANES(ROWS), .ACCUMULATOR_BITS(ACCUMULATOR_BITS), .RESULT_BITS(RESULT_BITS),
      .ADDER_LATENCY(ADDER_LATENCY), .SUM_DEPTH(SUM_DEPTH)
  ) rows_of_sums (
      .clk, .rst, .clear(start && !busy), .length, .shift,
      .valid(row_marks.valid), .fresh(row_marks.fresh), .whole(row_marks.whole),
      .closes(row_marks.closes), .row, .fold_written, .result_valid, .result_address,
      .result_sums, .result_words);

  assign done = result_valid && (result_address == 32'(length) * 32'(row_folds) - 1);
  always_ff @(posedge clk) busy <= !rst && (start || (busy && !done));
endmodule
