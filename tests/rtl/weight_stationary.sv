// Weight-stationary systolic array: (m, k) @ (k, n), k = rows * row_folds, n = columns * column_folds,
// on the first `rows` and `columns` of the array.
//
//   input memory, ROWS lanes a word, at i*m + j:      inputs[j, i*rows + lane]
//   weight memory, COLUMNS lanes a word, at (j*row_folds + i)*rows + r:
//                                                     weights[i*rows + r, j*columns + lane]
//   results, COLUMNS lanes a row, at j*m + i:         of pixel i, fold column j
//
// Both memories answer one cycle after the address. Sums fall down a column through one adder of
// ADDER_LATENCY stages a PE, so row r works r * ADDER_LATENCY cycles after row 0; inputs hop one
// column a cycle. The weights of the next fold shift down behind the present ones; a mark on the
// first input of a fold swaps them, row by row as it arrives. With OVERLAP a fold streams while the
// next one loads; a row must not shift before it has swapped, hence `load_start`. Without OVERLAP a
// fold loads when the last row of the one before has been written.
//
// Sums over more than `rows` of k wait in `running_sums`, which can add to them again after
// ADDER_LATENCY cycles, so two folds start at least that far apart.
module weight_stationary #(
    parameter int ROWS               = 4,
    parameter int COLUMNS            = 4,
    parameter int OPERAND_BITS       = 8,
    parameter int ACCUMULATOR_BITS   = 32,
    parameter int RESULT_BITS        = 8,
    parameter int OVERLAP            = 1,
    parameter int PARTS              = 1,  // else all rows and columns are always in use
    parameter int MULTIPLIER_LATENCY = 1,
    parameter int ADDER_LATENCY      = 1,
    parameter int SUM_DEPTH          = 256
) (
    input  logic                                clk,
    input  logic                                rst,
    input  logic                                start,
    input  logic [15:0]                         rows,          // in use, with PARTS
    input  logic [15:0]                         columns,
    input  logic [15:0]                         length,        // inputs of a fold: m, to SUM_DEPTH
    input  logic [15:0]                         row_folds,
    input  logic [15:0]                         column_folds,
    input  logic [5:0]                          shift,
    output logic                                busy,
    output logic                                done,          // the last row is being written
    output logic [31:0]                         input_address,
    output logic [31:0]                         weight_address,
    input  logic [ROWS*OPERAND_BITS-1:0]        input_word,
    input  logic [COLUMNS*OPERAND_BITS-1:0]     weight_word,
    output logic                                result_valid,
    output logic [31:0]                         result_address,
    output logic [COLUMNS*ACCUMULATOR_BITS-1:0] result_sums,
    output logic [COLUMNS*RESULT_BITS-1:0]      result_words
);
  localparam int ROW_BITS = (ROWS == 1) ? 1 : $clog2(ROWS);
  logic [15:0] used_rows, used_columns, last_row, last_column;
  assign used_rows    = (PARTS != 0) ? rows : 16'(ROWS);
  assign used_columns = (PARTS != 0) ? columns : 16'(COLUMNS);
  assign last_row     = used_rows - 1'b1;
  assign last_column  = used_columns - 1'b1;
  // ------------------------------------------------------------ sequencer
  // A slot streams one fold, or loads one, or with OVERLAP streams one and loads the next.
  logic        active, loads, streams, slot_end, fold_written, last_row_fold;
  logic [31:0] slot, load_start, weight_step, stream_cycles, load_cycles, slot_cycles;
  logic [31:0] input_base, weight_base, folds, folds_loaded, folds_streamed;
  logic [15:0] row_fold;
  logic        input_issue, input_first, weight_issue, weight_first;

  assign folds          = 32'(row_folds) * 32'(column_folds);
  assign last_row_fold  = row_fold == row_folds - 1;
  // swaps fall slower than weights
  assign load_start     = streams ? 32'(last_row) * (ADDER_LATENCY - 1) : 0;
  assign load_cycles    = loads ? load_start + 32'(used_rows) : 0;
  assign stream_cycles  =
      !streams ? 0 : (32'(length) < ADDER_LATENCY) ? ADDER_LATENCY : 32'(length);
  assign slot_cycles    = (load_cycles > stream_cycles) ? load_cycles : stream_cycles;
  assign slot_end       = (OVERLAP == 0 && streams) ? fold_written : (slot == slot_cycles - 1);
  assign input_issue    = active && streams && (slot < 32'(length));
  assign input_first    = input_issue && (slot == 0);
  assign weight_step    = slot - load_start;  // wraps, and so is large, before the load starts
  assign weight_issue   = active && loads && (weight_step < 32'(used_rows));
  assign weight_first   = weight_issue && (weight_step == 0);
  assign input_address  = input_base + slot;
  assign weight_address = weight_base + 32'(last_row) - weight_step;  // the bottom row's first

  always_ff @(posedge clk) begin
    if (rst || (start && !busy)) begin
      active         <= !rst;
      slot           <= '0;
      loads          <= 1'b1;
      streams        <= 1'b0;
      row_fold       <= '0;
      input_base     <= '0;
      weight_base    <= '0;
      folds_loaded   <= '0;
      folds_streamed <= '0;
    end else if (active && !slot_end) begin
      slot <= slot + 1'b1;
    end else if (active) begin
      slot <= '0;
      if (loads) begin
        folds_loaded <= folds_loaded + 1'b1;
        weight_base  <= weight_base + 32'(used_rows);
      end
      if (streams) begin
        folds_streamed <= folds_streamed + 1'b1;
        active         <= folds_streamed != folds - 1;
        row_fold       <= last_row_fold ? '0 : row_fold + 1'b1;
        input_base     <= last_row_fold ? '0 : input_base + 32'(length);
      end
      streams <= (OVERLAP != 0) ? 1'b1 : loads;
      loads   <= (OVERLAP != 0) ? (folds_loaded + 32'(loads) < folds) : !loads;
    end
  end

  // ------------------------------------------------------------ the array
  typedef struct packed {
    logic valid;
    logic fresh;   // the first fold of its sums: nothing to add to
    logic whole;   // the last: the sums are results
    logic swap;    // the first input of a fold
  } marks_t;
  marks_t marks;                                    // beside the inputs from memory
  logic   weight_valid, weight_start;               // beside the weights from memory
  logic [OPERAND_BITS:0]       inputs [ROWS][COLUMNS+1];  // {swap, input}
  logic [OPERAND_BITS-1:0]     weights[ROWS+1][COLUMNS];
  logic [ACCUMULATOR_BITS-1:0] sums   [ROWS+1][COLUMNS];
  logic [ROWS-1:0]             shifting, shifted;   // rows that take a weight from above
  logic [ROWS-1:0]             shifting_of[COLUMNS];

  always_ff @(posedge clk) begin
    marks        <= rst ? '0 : {input_issue, row_fold == 0, last_row_fold, input_first};
    weight_valid <= !rst && weight_issue;
    weight_start <= !rst && weight_first;
    shifted      <= rst ? '0 : shifting;
  end
  // the first weight moves row 0, the second rows 0 and 1 ...: what is below may be in use still
  assign shifting = weight_start ? ROWS'(1) : weight_valid ? ((shifted << 1) | ROWS'(1)) : '0;

  for (genvar r = 0; r < ROWS; r++) begin : g_input_skew
    delay #(.BITS(OPERAND_BITS + 1), .CYCLES(r * ADDER_LATENCY)) skew (
        .clk, .rst, .d({marks.swap, input_word[r*OPERAND_BITS+:OPERAND_BITS]}), .q(inputs[r][0]));
  end
  for (genvar c = 0; c < COLUMNS; c++) begin : g_weight_skew
    delay #(.BITS(OPERAND_BITS), .CYCLES(c)) skew (
        .clk, .rst, .d(weight_word[c*OPERAND_BITS+:OPERAND_BITS]), .q(weights[0][c]));
    delay #(.BITS(ROWS), .CYCLES(c)) skew_shifting (
        .clk, .rst, .d(shifting), .q(shifting_of[c]));
    assign sums[0][c] = '0;
  end
  for (genvar r = 0; r < ROWS; r++) begin : g_row
    for (genvar c = 0; c < COLUMNS; c++) begin : g_column
      weight_stationary_pe #(
          .OPERAND_BITS(OPERAND_BITS), .ACCUMULATOR_BITS(ACCUMULATOR_BITS),
          .MULTIPLIER_LATENCY(MULTIPLIER_LATENCY), .ADDER_LATENCY(ADDER_LATENCY)
      ) pe (
          .clk, .rst,
          .input_in(inputs[r][c]), .input_out(inputs[r][c+1]),
          .shifts(shifting_of[c][r]), .weight_in(weights[r][c]), .weight_out(weights[r+1][c]),
          .sum_in(sums[r][c]), .sum_out(sums[r+1][c]));
    end
  end

  // ------------------------------------------------------------ rows, added to earlier sums
  logic [COLUMNS*ACCUMULATOR_BITS-1:0] row;
  marks_t                              row_marks;
  for (genvar c = 0; c < COLUMNS; c++) begin : g_deskew
    logic [ACCUMULATOR_BITS-1:0] leaving[ROWS];
    for (genvar r = 0; r < ROWS; r++) begin : g_leaving
      assign leaving[r] = sums[r+1][c];
    end
    tapped_delay #(.BITS(ACCUMULATOR_BITS), .MOST_CYCLES(COLUMNS - 1 - c)) deskew (
        .clk, .rst, .cycles((last_column > c) ? last_column - 16'(c) : '0),
        .d(leaving[ROW_BITS'(last_row)]), .q(row[c*ACCUMULATOR_BITS+:ACCUMULATOR_BITS]));
  end
  // an operand register, a product, the last row's adder; the skew of rows and of columns
  localparam int UNSKEWED = 1 + MULTIPLIER_LATENCY + ADDER_LATENCY;
  tapped_delay #(.BITS($bits(marks)),
                 .MOST_CYCLES((ROWS - 1) * ADDER_LATENCY + COLUMNS - 1 + UNSKEWED)) crossing (
      .clk, .rst, .cycles(last_row * 16'(ADDER_LATENCY) + last_column + 16'(UNSKEWED)),
      .d(marks), .q(row_marks));
  running_sums #(
      .LANES(COLUMNS), .ACCUMULATOR_BITS(ACCUMULATOR_BITS), .RESULT_BITS(RESULT_BITS),
      .ADDER_LATENCY(ADDER_LATENCY), .SUM_DEPTH(SUM_DEPTH)
  ) rows_of_sums (
      .clk, .rst, .clear(start && !busy), .length, .shift,
      .valid(row_marks.valid), .fresh(row_marks.fresh), .whole(row_marks.whole), .closes(1'b1),
      .row, .fold_written, .result_valid, .result_address, .result_sums, .result_words);

  assign done = result_valid && (result_address == 32'(length) * 32'(column_folds) - 1);
  always_ff @(posedge clk) busy <= !rst && (start || (busy && !done));
endmodule

module weight_stationary_pe #(
    parameter int OPERAND_BITS       = 8,
    parameter int ACCUMULATOR_BITS   = 32,
    parameter int MULTIPLIER_LATENCY = 1,
    parameter int ADDER_LATENCY      = 1
) (
    input  logic                        clk,
    input  logic                        rst,
    input  logic [OPERAND_BITS:0]       input_in,    // {swap, input}
    output logic [OPERAND_BITS:0]       input_out,
    input  logic                        shifts,
    input  logic [OPERAND_BITS-1:0]     weight_in,
    output logic [OPERAND_BITS-1:0]     weight_out,  // the next fold's, on its way down
    input  logic [ACCUMULATOR_BITS-1:0] sum_in,
    output logic [ACCUMULATOR_BITS-1:0] sum_out
);
  logic signed [OPERAND_BITS-1:0]   weight;
  logic signed [2*OPERAND_BITS-1:0] exact, product;
  always_ff @(posedge clk) begin
    input_out <= rst ? '0 : input_in;
    if (shifts) weight_out <= weight_in;
    if (input_in[OPERAND_BITS]) weight <= weight_out;
  end
  assign exact = $signed(input_out[OPERAND_BITS-1:0]) * weight;
  delay #(.BITS(2 * OPERAND_BITS), .CYCLES(MULTIPLIER_LATENCY)) multiplier (
      .clk, .rst, .d(exact), .q(product));
  delay #(.BITS(ACCUMULATOR_BITS), .CYCLES(ADDER_LATENCY)) adder (
      .clk, .rst, .d(sum_in + ACCUMULATOR_BITS'(product)), .q(sum_out));
endmodule
