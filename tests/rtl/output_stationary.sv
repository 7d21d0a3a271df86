// Output-stationary systolic array: (m, k) @ (k, n), m = rows * row_folds, n = columns * column_folds,
// on the first `rows` and `columns` of the array.
//
//   input memory, ROWS lanes a word, at i*k + j:      inputs[i*rows + lane, j]
//   weight memory, COLUMNS lanes a word, at i*k + j:  weights[j, i*columns + lane]
//   results, COLUMNS lanes a row, at (i*column_folds + j)*rows + r:  of fold (i, j), bottom row first
//
// Both memories answer one cycle after the address. Operands hop one PE a cycle, so PE (r, c) works
// r + c cycles after PE (0, 0). A PE has operand registers, MULTIPLIER_LATENCY registers of product
// and an adder of ADDER_LATENCY stages that returns its own sum: a product of the same sum can
// enter every ADDER_LATENCY cycles. A whole sum is captured in a shadow register; those of a column
// are a chain that moves down, one row out a cycle, once the bottom PE in use has captured. Capture
// and drain are skewed like the operands: with OVERLAP a fold starts max(k * ADDER_LATENCY, rows)
// cycles after the one before, else when its last row has been written.
module output_stationary #(
    parameter int ROWS               = 4,
    parameter int COLUMNS            = 4,
    parameter int OPERAND_BITS       = 8,
    parameter int ACCUMULATOR_BITS   = 32,
    parameter int RESULT_BITS        = 8,
    parameter int OVERLAP            = 1,
    parameter int PARTS              = 1,  // else all rows and columns are always in use
    parameter int MULTIPLIER_LATENCY = 1,
    parameter int ADDER_LATENCY      = 1
) (
    input  logic                                clk,
    input  logic                                rst,
    input  logic                                start,
    input  logic [15:0]                         rows,          // in use, with PARTS
    input  logic [15:0]                         columns,
    input  logic [15:0]                         length,        // products of a sum: k
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
  localparam int ROW_BITS    = (ROWS == 1) ? 1 : $clog2(ROWS);
  localparam int COLUMN_BITS = (COLUMNS == 1) ? 1 : $clog2(COLUMNS);
  logic [15:0] used_rows, used_columns, last_row, last_column;
  assign used_rows    = (PARTS != 0) ? rows : 16'(ROWS);
  assign used_columns = (PARTS != 0) ? columns : 16'(COLUMNS);
  assign last_row     = used_rows - 1'b1;
  assign last_column  = used_columns - 1'b1;
  // ------------------------------------------------------------ sequencer: one slot a fold
  logic        active, slot_end, fold_written, last_fold;
  logic [31:0] slot, slot_cycles, products_cycles, input_base, weight_base;
  logic [15:0] product, phase, row_fold, column_fold;
  logic        issue, first, last;

  assign products_cycles = 32'(length) * ADDER_LATENCY;
  assign slot_cycles     = (products_cycles > 32'(used_rows)) ? products_cycles : 32'(used_rows);
  assign slot_end    = (OVERLAP != 0) ? (slot == slot_cycles - 1) : fold_written;
  assign last_fold   = (row_fold == row_folds - 1) && (column_fold == column_folds - 1);
  assign issue       = active && (phase == 0) && (product < length);
  assign first       = issue && (product == 0);
  assign last        = issue && (product == length - 1);
  assign input_address  = input_base + 32'(product);
  assign weight_address = weight_base + 32'(product);

  always_ff @(posedge clk) begin
    if (rst || (start && !busy)) begin
      active      <= !rst;
      slot        <= '0;
      product     <= '0;
      phase       <= '0;
      row_fold    <= '0;
      column_fold <= '0;
      input_base  <= '0;
      weight_base <= '0;
    end else if (active && slot_end) begin
      slot    <= '0;
      product <= '0;
      phase   <= '0;
      active  <= !last_fold;
      if (column_fold == column_folds - 1) begin
        column_fold <= '0;
        weight_base <= '0;
        row_fold    <= row_fold + 1'b1;
        input_base  <= input_base + 32'(length);
      end else begin
        column_fold <= column_fold + 1'b1;
        weight_base <= weight_base + 32'(length);
      end
    end else if (active) begin
      slot <= slot + 1'b1;
      if (phase == 16'(ADDER_LATENCY - 1)) begin
        phase <= '0;
        if (product < length) product <= product + 1'b1;
      end else phase <= phase + 1'b1;
    end
  end

  // ------------------------------------------------------------ the array
  localparam int MOVING_BITS = OPERAND_BITS + 2;  // an input and {last, first} of its sum
  logic [1:0]                  marks;             // beside the words from memory
  logic [MOVING_BITS-1:0]      inputs [ROWS][COLUMNS+1];
  logic [OPERAND_BITS-1:0]     weights[ROWS+1][COLUMNS];
  logic [ACCUMULATOR_BITS-1:0] chain  [ROWS+1][COLUMNS];
  logic [ROWS-1:0]             captured[COLUMNS];
  logic [ROWS-1:0]             moving [COLUMNS];  // rows of a column whose shadows move down

  always_ff @(posedge clk) marks <= rst ? '0 : {last, first};

  for (genvar r = 0; r < ROWS; r++) begin : g_input_skew
    delay #(.BITS(MOVING_BITS), .CYCLES(r)) skew (
        .clk, .rst, .d({marks, input_word[r*OPERAND_BITS+:OPERAND_BITS]}), .q(inputs[r][0]));
  end
  for (genvar c = 0; c < COLUMNS; c++) begin : g_weight_skew
    delay #(.BITS(OPERAND_BITS), .CYCLES(c)) skew (
        .clk, .rst, .d(weight_word[c*OPERAND_BITS+:OPERAND_BITS]), .q(weights[0][c]));
    assign chain[0][c] = '0;
    // all rows move at first; then the top one is empty, then the two at the top ...
    always_ff @(posedge clk)
      moving[c] <= rst ? '0 : captured[c][ROW_BITS'(last_row)] ? '1 : (moving[c] << 1);
  end
  for (genvar r = 0; r < ROWS; r++) begin : g_row
    for (genvar c = 0; c < COLUMNS; c++) begin : g_column
      output_stationary_pe #(
          .OPERAND_BITS(OPERAND_BITS), .ACCUMULATOR_BITS(ACCUMULATOR_BITS),
          .MULTIPLIER_LATENCY(MULTIPLIER_LATENCY), .ADDER_LATENCY(ADDER_LATENCY)
      ) pe (
          .clk, .rst,
          .input_in(inputs[r][c]), .input_out(inputs[r][c+1]),
          .weight_in(weights[r][c]), .weight_out(weights[r+1][c]),
          .captures(captured[c][r]), .moves(moving[c][r]),
          .chain_in(chain[r][c]), .chain_out(chain[r+1][c]));
    end
  end

  // ------------------------------------------------------------ rows, requantised and written
  logic [COLUMNS*ACCUMULATOR_BITS-1:0] row;
  logic [COLUMNS*RESULT_BITS-1:0]      words;
  logic [15:0]                         row_index;
  logic [31:0]                         folds_written;
  for (genvar c = 0; c < COLUMNS; c++) begin : g_deskew
    logic [ACCUMULATOR_BITS-1:0] leaving[ROWS];
    for (genvar r = 0; r < ROWS; r++) begin : g_leaving
      assign leaving[r] = chain[r+1][c];
    end
    tapped_delay #(.BITS(ACCUMULATOR_BITS), .MOST_CYCLES(COLUMNS - 1 - c)) deskew (
        .clk, .rst, .cycles((last_column > c) ? last_column - 16'(c) : '0),
        .d(leaving[ROW_BITS'(last_row)]), .q(row[c*ACCUMULATOR_BITS+:ACCUMULATOR_BITS]));
  end
  requantise #(
      .LANES(COLUMNS), .ACCUMULATOR_BITS(ACCUMULATOR_BITS), .RESULT_BITS(RESULT_BITS)
  ) requantiser (.shift, .sums(row), .words);

  assign fold_written   = result_valid && (row_index == 0);
  assign result_address = folds_written * 32'(used_rows) + 32'(row_index);
  assign done           = fold_written && (folds_written == 32'(row_folds) * 32'(column_folds) - 1);
  always_ff @(posedge clk) begin
    result_valid <= !rst && moving[COLUMN_BITS'(last_column)][ROW_BITS'(last_row)];
    result_sums  <= row;
    result_words <= words;
    if (rst || (start && !busy)) begin
      row_index     <= last_row;
      folds_written <= '0;
    end else if (result_valid) begin
      row_index <= (row_index == 0) ? last_row : row_index - 1'b1;
      if (row_index == 0) folds_written <= folds_written + 1'b1;
    end
    busy <= !rst && (start || (busy && !done));
  end
endmodule

module output_stationary_pe #(
    parameter int OPERAND_BITS       = 8,
    parameter int ACCUMULATOR_BITS   = 32,
    parameter int MULTIPLIER_LATENCY = 1,
    parameter int ADDER_LATENCY      = 1
) (
    input  logic                        clk,
    input  logic                        rst,
    input  logic [OPERAND_BITS+1:0]     input_in,   // {last, first, input}
    output logic [OPERAND_BITS+1:0]     input_out,
    input  logic [OPERAND_BITS-1:0]     weight_in,
    output logic [OPERAND_BITS-1:0]     weight_out,
    input  logic                        moves,
    output logic                        captures,
    input  logic [ACCUMULATOR_BITS-1:0] chain_in,
    output logic [ACCUMULATOR_BITS-1:0] chain_out
);
  logic signed [2*OPERAND_BITS-1:0]   exact, product;
  logic signed [ACCUMULATOR_BITS-1:0] sum;
  logic [1:0]                         marks;  // {last, first}, beside the product
  always_ff @(posedge clk) begin
    input_out  <= rst ? '0 : input_in;
    weight_out <= weight_in;
  end
  assign exact = $signed(input_out[OPERAND_BITS-1:0]) * $signed(weight_out);
  delay #(.BITS(2 * OPERAND_BITS), .CYCLES(MULTIPLIER_LATENCY)) multiplier (
      .clk, .rst, .d(exact), .q(product));
  delay #(.BITS(2), .CYCLES(MULTIPLIER_LATENCY)) multiplying (
      .clk, .rst, .d(input_out[OPERAND_BITS+:2]), .q(marks));
  // between two products of a sum, ADDER_LATENCY apart, the stages hold what nobody captures
  delay #(.BITS(ACCUMULATOR_BITS), .CYCLES(ADDER_LATENCY)) adder (
      .clk, .rst, .d((marks[0] ? '0 : sum) + ACCUMULATOR_BITS'(product)), .q(sum));
  delay #(.BITS(1), .CYCLES(ADDER_LATENCY)) adding (.clk, .rst, .d(marks[1]), .q(captures));
  always_ff @(posedge clk)
    if (captures) chain_out <= sum;
    else if (moves) chain_out <= chain_in;
endmodule
