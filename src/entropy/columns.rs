//! Which columns of a layer are in use.

use super::range_coder::{AdaptiveBit, BitCoder};
use super::spec::Geometry;

/// Codes which columns have an entry, each under a model chosen by the columns before and above it
/// on the map; gives their numbers.
pub(crate) fn code_columns(
    coder: &mut impl BitCoder,
    geometry: Geometry,
    used: &mut [bool],
) -> Vec<u32> {
    let mut models = [AdaptiveBit::NEW; 4];
    for column in 0..used.len() {
        let before = column == 0 || used[column - 1];
        let above = match column.checked_sub(geometry.width) {
            Some(above) if geometry.height > 1 => used[above],
            _ => before,
        };
        let model = &mut models[usize::from(before) << 1 | usize::from(above)];
        used[column] = coder.bit(model, used[column]);
    }
    (0u32..).zip(used).filter(|(_, used)| **used).map(|(column, _)| column).collect()
}
