"""Whole machines, one literal each: a board, and an accelerator that fits it.

Resources are the data sheets'. A buffer has ports for at least 4 bytes a cycle for each column of
the PE array, the output buffer for 8: weight-stationary partial sums of 32 bits come and go. Static
watts are estimates (no board publishes them for an idle accelerator): the one measured trainer on
such a board, EF-Train on a ZCU102, draws 46.99 GFLOPS / 6.09 GFLOPS/W = 7.72 W in all at 100 MHz.
"""

from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.board import BoardSpec
from accsim.hardware.buffer import BufferSpec, BuffersSpec
from accsim.hardware.dma import DmaSpec
from accsim.hardware.dram_parts import part
from accsim.hardware.pe_array import PEArraySpec
from accsim.hardware.vector_unit import VectorUnitSpec
from accsim.units import KIB

ZCU104 = AcceleratorSpec(
    name="ZCU104",
    clock_mhz=200,
    pe_array=PEArraySpec(rows=32, columns=32),
    vector_unit=VectorUnitSpec(lanes=32),
    buffers=BuffersSpec(
        input=BufferSpec(1024 * KIB),
        weight=BufferSpec(768 * KIB),
        output=BufferSpec(1024 * KIB, banks=32),
        gradient=BufferSpec(384 * KIB, slots=1),
        resident_bytes=1024 * KIB,
    ),
    dma=DmaSpec(read_bytes_per_cycle=64, write_bytes_per_cycle=64),
    dram=part("DDR4_2400_4Gb_x16"),  # UG1267: 2 GB, 64 bits, four chips at the processor system
    board=BoardSpec(
        name="ZCU104 (XCZU7EV)",
        source="AMD DS891, Zynq UltraScale+ EV devices: ZU7EV",
        dsp_slices=1728,
        luts=230_400,
        flip_flops=460_800,
        bram36=312,
        uram=96,
        static_watts=3.0,
        static_watts_range=(1.5, 5.0),
    ),
)

ZCU102 = AcceleratorSpec(
    name="ZCU102",
    clock_mhz=200,
    pe_array=PEArraySpec(rows=32, columns=64),
    vector_unit=VectorUnitSpec(lanes=32),
    buffers=BuffersSpec(
        input=BufferSpec(768 * KIB, banks=32),
        weight=BufferSpec(768 * KIB, banks=32),
        output=BufferSpec(512 * KIB, banks=64),
        gradient=BufferSpec(512 * KIB, slots=1, banks=32),
        resident_bytes=768 * KIB,
    ),
    dma=DmaSpec(read_bytes_per_cycle=64, write_bytes_per_cycle=64),
    dram=part("DDR4_2400_8Gb_x16"),  # UG1182: 4 GB module, 64 bits, 8 Gb x16 chips
    board=BoardSpec(
        name="ZCU102 (XCZU9EG)",
        source="AMD DS891, Zynq UltraScale+ EG devices: ZU9EG",
        dsp_slices=2520,
        luts=274_080,
        flip_flops=548_160,
        bram36=912,
        uram=0,
        static_watts=3.5,
        static_watts_range=(2.0, 5.5),
    ),
)

KV260 = AcceleratorSpec(
    name="KV260",
    clock_mhz=200,
    pe_array=PEArraySpec(rows=32, columns=32),
    vector_unit=VectorUnitSpec(lanes=16),
    buffers=BuffersSpec(
        input=BufferSpec(512 * KIB),
        weight=BufferSpec(512 * KIB),
        output=BufferSpec(512 * KIB, banks=32),
        gradient=BufferSpec(512 * KIB, slots=1),
        resident_bytes=512 * KIB,
    ),
    dma=DmaSpec(read_bytes_per_cycle=64, write_bytes_per_cycle=64),
    dram=part("DDR4_2400_8Gb_x16"),  # DS987: 4 GB, 64 bits
    board=BoardSpec(
        name="KV260 (XCK26)",
        source="AMD DS987, Kria K26 SOM",
        dsp_slices=1248,
        luts=117_120,
        flip_flops=234_240,
        bram36=144,
        uram=64,
        static_watts=2.5,
        static_watts_range=(1.5, 4.0),
    ),
)

ULTRA96 = AcceleratorSpec(
    name="Ultra96",
    clock_mhz=200,
    pe_array=PEArraySpec(rows=16, columns=16),
    vector_unit=VectorUnitSpec(lanes=8),
    buffers=BuffersSpec(
        input=BufferSpec(128 * KIB, banks=8),
        weight=BufferSpec(192 * KIB, banks=8),
        output=BufferSpec(128 * KIB, banks=16),
        gradient=BufferSpec(192 * KIB, slots=1, banks=8),
        resident_bytes=128 * KIB,
    ),
    dma=DmaSpec(read_bytes_per_cycle=32, write_bytes_per_cycle=32),
    # Avnet Ultra96-V2 hardware user's guide: 2 GB of LPDDR4, 32 bits
    dram=part("LPDDR4_2400_8Gb_x16"),
    board=BoardSpec(
        name="Ultra96 (XCZU3EG)",
        source="AMD DS891, Zynq UltraScale+ EG devices: ZU3EG",
        dsp_slices=360,
        luts=70_560,
        flip_flops=141_120,
        bram36=216,
        uram=0,
        static_watts=2.0,
        static_watts_range=(1.0, 3.5),
    ),
)

PYNQ_Z2 = AcceleratorSpec(
    name="PYNQ-Z2",
    clock_mhz=100,
    pe_array=PEArraySpec(rows=8, columns=16),
    vector_unit=VectorUnitSpec(lanes=8),
    buffers=BuffersSpec(
        input=BufferSpec(128 * KIB, banks=8),
        weight=BufferSpec(128 * KIB, banks=8),
        output=BufferSpec(128 * KIB, banks=16),
        gradient=BufferSpec(96 * KIB, slots=1, banks=12),
        resident_bytes=64 * KIB,
    ),
    dma=DmaSpec(read_bytes_per_cycle=16, write_bytes_per_cycle=16),
    dram=part("DDR3_1050_4Gb_x16"),  # TUL PYNQ-Z2 reference manual: 512 MB, 16 bits, 1050 Mb/s
    board=BoardSpec(
        name="PYNQ-Z2 (XC7Z020)",
        source="AMD DS190, Zynq-7000: Z-7020",
        dsp_slices=220,
        luts=53_200,
        flip_flops=106_400,
        bram36=140,
        uram=0,
        static_watts=1.5,
        static_watts_range=(0.8, 2.5),
    ),
)
