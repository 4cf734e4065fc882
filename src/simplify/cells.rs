//! Units of recurrent cells, whose values go on from step to step, and features of embeddings, which are the
//! columns of a table.

use super::Units;
use super::wiring::Reader;
use crate::error::Result;

impl Units<'_> {
    /// Removes the units of a cell that nothing reads: no later layer, and no other unit but such as go, too.
    /// `layers` are that of its inputs and its own, of `gates` rows for each unit, gate by gate. Gives the rows
    /// that went of each.
    pub(super) fn remove_from_cell(
        &mut self,
        layers: [usize; 2],
        gates: usize,
        readers: &[Reader],
    ) -> Result<usize> {
        let [_, own] = layers;
        let units = self.of[own].empty.len() / gates;
        let mut live = vec![false; units];
        readers.iter().for_each(|reader| self.mark_read(reader, &mut live));
        let states = self.model.layer(own)?;
        let mut waiting: Vec<usize> = (0..units).filter(|&unit| live[unit]).collect();
        while let Some(unit) = waiting.pop() {
            for row in (unit..gates * units).step_by(units) {
                let Some(row) = states.weights.outer_view(row) else { continue };
                for &column in row.indices() {
                    if !std::mem::replace(&mut live[column as usize], true) {
                        waiting.push(column as usize);
                    }
                }
            }
        }
        let mut removed: Vec<bool> = live.iter().map(|live| !live).collect();
        if !removed.contains(&false) {
            // As of every layer, one unit stays.
            removed[0] = false;
        }
        let count = removed.iter().filter(|&&gone| gone).count();
        if count == 0 {
            return Ok(0);
        }
        for reader in readers {
            self.remove_columns(reader.layer, [reader.columns, reader.first], &removed)?;
        }
        self.remove_columns(own, [1, 0], &removed)?;
        let rows = removed.repeat(gates);
        layers.into_iter().try_for_each(|layer| self.remove_rows(layer, &rows))?;
        Ok(gates * count)
    }

    /// Removes the features of an embedding that no later layer reads; says how many there were.
    pub(super) fn remove_features(&mut self, layer: usize, readers: &[Reader]) -> Result<usize> {
        let mut read = vec![false; self.of[layer].read.len()];
        readers.iter().for_each(|reader| self.mark_read(reader, &mut read));
        let mut removed: Vec<bool> = read.iter().map(|read| !read).collect();
        if !removed.contains(&false) {
            removed[0] = false;
        }
        let count = removed.iter().filter(|&&gone| gone).count();
        if count == 0 {
            return Ok(0);
        }
        for reader in readers {
            self.remove_columns(reader.layer, [reader.columns, reader.first], &removed)?;
        }
        self.remove_columns(layer, [1, 0], &removed)?;
        Ok(count)
    }
}
