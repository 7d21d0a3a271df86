"""Strong augmentation in exact integers: operations on the colours and the places of an image.

An amount is a whole number of -30 to 30; 30 is the farthest that RandAugment goes. Every quotient
is rounded half up. Source: Cubuk et al., "RandAugment: Practical automated data augmentation with a
reduced search space", CVPR workshops 2020, in the ranges of torchvision; shifts reach 0.3 of the
side, as in Sohn et al., "FixMatch", NeurIPS 2020, table 12. Equalize and sharpness are Pillow's
(`ImageOps.equalize`, `ImageEnhance.Sharpness`); only who asks for them has them.
"""

import numpy as np
from numba import njit, prange

MOST = 30  # the largest amount
(
    IDENTITY,
    AUTOCONTRAST,  # every channel stretched to 0 to 255; has no amount
    BRIGHTNESS,  # p f, with f = 1 + 0.9 amount / 30
    CONTRAST,  # m + (p - m) f, with m, the mean grey of the image
    SATURATION,  # g + (p - g) f, with g, the grey of the pixel
    POSTERIZE,  # 0 to 4 of the low bits become 0
    SOLARIZE,  # levels from 255 (1 - |amount| / 30) on are inverted
    SHEAR_ROWS,  # by 0.3 amount / 30
    SHEAR_COLUMNS,
    SHIFT_ROWS,  # by 0.3 amount / 30 of the side
    SHIFT_COLUMNS,
    ROTATE,  # by `amount` degrees
    EQUALIZE,  # every channel: as many pixels at each level; has no amount
    SHARPNESS,  # s + (p - s) f, with s, the pixel smoothed over its neighbours
) = range(14)
KINDS = 14  # of which the first dozen are drawn unless more are asked for
OUTSIDE = 128  # grey, where an operation looks beyond the image
FACTOR, FACTOR_STEP = 300, 9  # f is (300 + 9 amount) / 300
PERCENT = 100  # shears and shifts are amount / 100
HALF_ANGLE, RADIUS = 9, 1000  # tan(half of a degree) is 9 / 1000: within 3 % up to 30 degrees


@njit(cache=True, parallel=True)
def distort(images, kinds, amounts):
    """Every image after its operations, one after another.

    Parameters
    ----------
    images : uint8[N, H, W, C]; 3 channels are red, green and blue
    kinds : int64[N, operations], 0 to `KINDS` - 1, as above
    amounts : int64[N, operations], -30 to 30

    Returns
    -------
    uint8[N, H, W, C]
    """
    out = images.copy()
    for i in prange(len(images)):
        image = out[i]
        for k in range(kinds.shape[1]):
            kind, amount = kinds[i, k], amounts[i, k]
            if kind == SATURATION:
                _saturation(image, amount)
            elif kind == SHARPNESS:
                _sharpness(image, amount)
            elif SHEAR_ROWS <= kind <= ROTATE:
                _move(image, kind, amount)
            elif kind != IDENTITY:
                mean = _mean_grey(image) if kind == CONTRAST else np.int64(0)
                for c in range(image.shape[2]):
                    _map_levels(image[:, :, c], kind, amount, mean)
    return out


@njit(cache=True)
def _map_levels(plane, kind, amount, mean):
    """An operation that sends every level of a channel to another, in place."""
    low, high = np.int64(plane.min()), np.int64(plane.max())
    counts, step = np.zeros(256, np.int64), np.int64(0)
    if kind == EQUALIZE:
        for h in range(plane.shape[0]):
            for w in range(plane.shape[1]):
                counts[plane[h, w]] += 1
        step = (plane.size - counts[high]) // 255  # pixels a level; those of the highest are over
    below = step // 2
    levels = np.empty(256, np.uint8)
    for p in range(256):
        level = p
        if kind == AUTOCONTRAST:
            if low < high:
                level = _quotient(255 * (p - low), high - low)
        elif kind == EQUALIZE:
            if step:
                level = int(below // step)
                below += counts[p]
        elif kind == POSTERIZE:
            low_bits = abs(amount) * 4 // MOST
            level = level >> low_bits << low_bits
        elif kind == SOLARIZE:
            if MOST * p >= 255 * (MOST - abs(amount)):
                level = 255 - level
        else:  # BRIGHTNESS, whose mean is 0, and CONTRAST
            level = mean + _quotient((p - mean) * (FACTOR + FACTOR_STEP * amount), FACTOR)
        levels[p] = min(max(level, 0), 255)
    for h in range(plane.shape[0]):
        for w in range(plane.shape[1]):
            plane[h, w] = levels[plane[h, w]]


@njit(cache=True)
def _saturation(image, amount):
    """Colours nearer to their pixel's grey, or farther from it, in place."""
    for h in range(image.shape[0]):
        for w in range(image.shape[1]):
            grey = _grey(image[h, w])
            for c in range(image.shape[2]):
                far = (image[h, w, c] - grey) * (FACTOR + FACTOR_STEP * amount)
                image[h, w, c] = min(max(grey + _quotient(far, FACTOR), 0), 255)


@njit(cache=True)
def _sharpness(image, amount):
    """Pixels farther from the mean of their neighbourhood, or nearer to it, in place.

    Of nine the middle one counts five times. What lies on a border stays as it is.
    """
    before = image.astype(np.int64)
    for h in range(1, image.shape[0] - 1):
        for w in range(1, image.shape[1] - 1):
            for c in range(image.shape[2]):
                own = before[h, w, c]
                total = before[h - 1 : h + 2, w - 1 : w + 2, c].sum() + 4 * own
                smooth = _quotient(total, 13)
                far = (own - smooth) * (FACTOR + FACTOR_STEP * amount)
                image[h, w, c] = min(max(smooth + _quotient(far, FACTOR), 0), 255)


@njit(cache=True)
def _grey(pixel):
    """Luma of a colour (ITU-R BT.601), else the mean of the channels."""
    if len(pixel) == 3:
        return _quotient(
            299 * np.int64(pixel[0]) + 587 * np.int64(pixel[1]) + 114 * np.int64(pixel[2]), 1000
        )
    return _quotient(np.int64(pixel.sum()), len(pixel))


@njit(cache=True)
def _mean_grey(image):
    total = np.int64(0)
    for h in range(image.shape[0]):
        for w in range(image.shape[1]):
            total += _grey(image[h, w])
    return _quotient(total, image.shape[0] * image.shape[1])


@njit(cache=True)
def _move(image, kind, amount):
    """An affine map about the middle, in place: every pixel takes the nearest one of its origin.

    Places are counted in half pixels from the middle; the matrix and the shift have `unit` parts.
    """
    height, width, channels = image.shape
    across = down = np.int64(0)  # how much an origin's column changes with the row; and the reverse
    right = below = np.int64(0)
    along, unit = np.int64(PERCENT), np.int64(PERCENT)
    if kind == SHEAR_ROWS:
        across = amount
    elif kind == SHEAR_COLUMNS:
        down = amount
    elif kind == SHIFT_ROWS:
        right = 2 * width * amount
    elif kind == SHIFT_COLUMNS:
        below = 2 * height * amount
    else:
        tangent = HALF_ANGLE * amount
        along, unit = RADIUS**2 - tangent**2, RADIUS**2 + tangent**2
        across = 2 * RADIUS * tangent
        down = -across
    before = image.copy()
    for h in range(height):
        y = 2 * h - (height - 1)
        for w in range(width):
            x = 2 * w - (width - 1)
            from_w = _quotient(along * x + across * y + right + (width - 1) * unit, 2 * unit)
            from_h = _quotient(down * x + along * y + below + (height - 1) * unit, 2 * unit)
            inside = 0 <= from_w < width and 0 <= from_h < height
            for c in range(channels):
                image[h, w, c] = before[from_h, from_w, c] if inside else OUTSIDE


@njit(cache=True, inline="always")
def _quotient(dividend, divisor):
    """Of integers, rounded half up; the divisor is above 0."""
    return (2 * dividend + divisor) // (2 * divisor)


def cut_out(images, centres, side):
    """A square of zeros over every image, where it lies in the image, in place.

    Parameters
    ----------
    images : int8[N, H, W, C], normalised: 0 is the mean colour
    centres : int64[N, 2], row and column
    side : of the square, pixels

    Notes
    -----
    Source: DeVries and Taylor, "Improved regularization of convolutional neural networks with
    cutout", 2017, section 3.2: squares may reach beyond the image.
    """
    first = centres - side // 2
    rows, columns = (
        (np.arange(size) >= first[:, axis, None]) & (np.arange(size) < first[:, axis, None] + side)
        for axis, size in enumerate(images.shape[1:3])
    )
    images[rows[:, :, None] & columns[:, None, :]] = 0
