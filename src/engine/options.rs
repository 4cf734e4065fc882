//! What a plan is made for.

/// What a plan is made for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Which kernels may be chosen.
    pub kernel: KernelChoice,
    /// The number of samples that will be run at a time, if it is known: layouts for other
    /// numbers are left out where that saves memory. Any number still runs.
    pub batch: Option<usize>,
    /// Whether samples are parts of one sequence, one after the other: recurrent cells, and attention that looks back in
    /// a network of free time, go on from where the sample before left them, for as long as the workspace is the
    /// same. A new one begins anew.
    pub stream: bool,
    /// Steps of a sample, if the network's time is free and all samples have so many: parts of a stream, say. Without
    /// it, parts of a stream are as long as the longest sequence.
    pub steps: Option<usize>,
    /// Threads that share a run, the caller's among them; the others are started with the engine and wait
    /// for work. Where the system refuses them, fewer do. The outputs are the same for any number; 0 is 1.
    pub threads: usize,
}

/// Which kernels a plan may choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// The one that should be the fastest for a layer's shape and density.
    #[default]
    Auto,
    /// The dense one, zeros and all: what sparsity is compared to.
    Dense,
    /// The sparse one, however few zeros there are: what a choice is calibrated by.
    Sparse,
}
