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
        let removed = self.remove_units(own, readers, &live)?;
        let rows = removed.repeat(gates);
        let count = rows.iter().filter(|&&gone| gone).count();
        if count > 0 {
            layers.into_iter().try_for_each(|layer| self.remove_rows(layer, &rows))?;
        }
        Ok(count)
    }

    /// Removes the features of an embedding that no later layer reads; says how many there were.
    pub(super) fn remove_features(&mut self, layer: usize, readers: &[Reader]) -> Result<usize> {
        let mut read = vec![false; self.of[layer].read.len()];
        readers.iter().for_each(|reader| self.mark_read(reader, &mut read));
        let removed = self.remove_units(layer, readers, &read)?;
        Ok(removed.iter().filter(|&&gone| gone).count())
    }

    /// Removes the columns of units that are not read, from their own layer and from its readers, but as of every
    /// layer one unit stays; says which went.
    fn remove_units(&mut self, own: usize, readers: &[Reader], read: &[bool]) -> Result<Vec<bool>> {
        let mut removed: Vec<bool> = read.iter().map(|read| !read).collect();
        if !read.contains(&true) {
            removed.iter_mut().take(1).for_each(|first| *first = false);
        }
        if removed.contains(&true) {
            for reader in readers {
                self.remove_columns(reader.layer, [reader.columns, reader.first], &removed)?;
            }
            self.remove_columns(own, [1, 0], &removed)?;
        }
        Ok(removed)
    }
}
