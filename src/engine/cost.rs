//! What kernels cost, as measured on an AVX2 core: which one is worth it.

/// Samples in the widest panel of a network with maps: more would not fit the caches.
pub(super) const LANES_OF_MAPS: usize = 16;

/// Samples in the widest panel of a network of vectors.
pub(super) const LANES_OF_VECTORS: usize = 32;

/// Samples below which they run one by one rather than as a part-filled panel.
pub(super) const WORTH_A_PANEL: usize = 3;

/// Bytes of inputs that stay in the first-level cache while rows go by.
const NEAR: usize = 24 << 10;

/// Entries of a row in a block of inputs that are worth the pass over the outputs.
const WORTH_A_PASS: usize = 10;

/// Whether a dense product with a vector is the faster one.
pub(super) fn dense_vector(rows: &[Vec<(u32, f32)>], columns: usize) -> bool {
    let entries: usize = rows.iter().map(Vec::len).sum();
    entries * 100 > rows.len() * columns * 18
}

/// Whether groups of four rows should share their taps: a tap then costs about two and a half
/// times as much, for four weights.
pub(super) fn shared_taps(rows: &[Vec<(u32, f32)>]) -> bool {
    let (mut apart, mut shared) = (0, 0);
    let mut columns = Vec::new();
    for rows in rows.chunks(4) {
        columns.clear();
        columns.extend(rows.iter().flatten().map(|entry| entry.0));
        apart += columns.len();
        columns.sort_unstable();
        columns.dedup();
        shared += columns.len();
    }
    apart * 10 > shared * 26
}

/// Columns of a block, such that its inputs, `bytes` for each column, stay near.
pub(super) fn block(
    rows: &[Vec<(u32, f32)>],
    columns: usize,
    bytes: usize,
    grouped: bool,
) -> usize {
    let near = (NEAR / bytes.max(1)).max(1);
    if grouped {
        return near.min(columns);
    }
    let entries: usize = rows.iter().map(Vec::len).sum();
    near.max(WORTH_A_PASS * rows.len() * columns / entries.max(1)).min(columns)
}

/// Bytes of a channel that a tile of a convolution reads.
pub(super) fn bytes_of_channel(kh: usize, kw: usize, pitch: usize, lanes: usize) -> usize {
    match lanes {
        1 => (96 + kw + (kh - 1) * pitch) * 4,
        _ => kh * (96 / lanes + kw) * lanes * 4,
    }
}
