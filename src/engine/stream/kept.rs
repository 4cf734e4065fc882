//! What the next part of a stream goes on from, and how one plan takes it over from another.

use std::ops::Range;

use crate::engine::plan::Engine;
use crate::engine::run::Workspace;
use crate::engine::step::{Step, StepKind};
use crate::engine::whole::Whole;
use crate::error::{Error, Result};

impl Engine {
    /// Goes on with a stream from where another plan of [`Engine::of_parts`] has brought it in its memory.
    ///
    /// # Errors
    /// [`Error::Data`] if these are not plans of one stream, or a memory is too small for its plan.
    pub fn take_over(
        &self,
        workspace: &mut Workspace,
        (before, memory): (&Self, &mut Workspace),
    ) -> Result<()> {
        let (to, from) = (workspace.arena.floats(), memory.arena.floats());
        let (own, theirs) = (kept(self), kept(before));
        let same = own.len() == theirs.len()
            && own.iter().zip(&theirs).all(|(own, theirs)| own.len() == theirs.len());
        if !same || to.len() < self.arena || from.len() < before.arena {
            return Err(Error::data("these are not two plans of one stream, each with its memory"));
        }
        for (own, theirs) in own.into_iter().zip(theirs) {
            to[own].copy_from_slice(&from[theirs]);
        }
        Ok(())
    }
}

/// Where a plan keeps it, the same in all plans of a stream but for where it lies.
fn kept(engine: &Engine) -> Vec<Range<usize>> {
    engine.steps.iter().flat_map(of_step).collect()
}

fn of_step(step: &Step) -> Vec<Range<usize>> {
    let start = step.output.0.start;
    let at = |range: Range<usize>| start + range.start..start + range.end;
    match &step.kind {
        StepKind::Whole(Whole::Position(_)) => vec![at(1..2)],
        StepKind::Whole(Whole::CachedAttention(attention)) => {
            let queries = &step.inputs[0].1;
            vec![at(attention.kept(queries.shape.height))]
        }
        StepKind::Whole(Whole::Recurrent(cell)) => cell.kept().map(at).to_vec(),
        _ => Vec::new(),
    }
}
