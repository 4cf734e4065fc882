//! The functions that `svdo.js` calls.
//!
//! Numbers and addresses are all that crosses: JavaScript writes into memory that a network or the buffer
//! of files owns, and reads from there what a call has left. That takes fifteen plain functions, none of
//! them unsafe, and no generator of glue that has to be of the same version as the crate.
//!
//! Functions that can fail return 0 for that, and leave the error in the text.

mod describe;
mod network;

use std::cell::RefCell;

use network::Network;
use svdo::Error;

/// What the module holds. A module has one thread.
#[derive(Default)]
struct State {
    /// A file that is about to be read.
    file: Vec<u8>,
    /// An answer or an error.
    text: String,
    /// Networks by handle less 1.
    networks: Vec<Option<Network>>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Runs `work` on the state; its error becomes the text, and 0.
fn guarded<T>(work: impl FnOnce(&mut State) -> Result<T, Error>, none: T) -> T {
    STATE.with_borrow_mut(|state| {
        work(state).unwrap_or_else(|error| {
            state.text = error.line();
            none
        })
    })
}

/// Runs `work` on a network.
fn with<T>(handle: usize, work: impl FnOnce(&mut Network) -> Result<T, Error>, none: T) -> T {
    guarded(|state| work(state.network(handle)?), none)
}

impl State {
    fn network(&mut self, handle: usize) -> Result<&mut Network, Error> {
        let found = self.networks.get_mut(handle.wrapping_sub(1)).and_then(Option::as_mut);
        found.ok_or_else(|| Error::Argument { problem: "the network is closed".into() })
    }
}

/// Room for a file of so many bytes, 0 if there is not as much memory.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_file(bytes: usize) -> *mut u8 {
    let room = |state: &mut State| {
        state.file = Vec::new();
        let none =
            |_| Error::Argument { problem: format!("no memory for a file of {bytes} bytes") };
        state.file.try_reserve_exact(bytes).map_err(none)?;
        state.file.resize(bytes, 0);
        Ok(state.file.as_mut_ptr())
    };
    guarded(room, std::ptr::null_mut())
}

/// Reads the file and plans its network: a handle.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_open() -> usize {
    let open = |state: &mut State| {
        let network = Network::open(&std::mem::take(&mut state.file))?;
        let free = state.networks.iter().position(Option::is_none);
        let at = free.unwrap_or(state.networks.len());
        if at == state.networks.len() {
            state.networks.push(None);
        }
        state.networks[at] = Some(network);
        Ok(at + 1)
    };
    guarded(open, 0)
}

/// Frees a network.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_close(handle: usize) {
    STATE.with_borrow_mut(|state| {
        if let Some(network) = state.networks.get_mut(handle.wrapping_sub(1)) {
            *network = None;
        }
    });
}

/// Where the text is: the description asked for last, or the last error.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_text() -> *const u8 {
    STATE.with_borrow(|state| state.text.as_ptr())
}

/// Bytes of the text, UTF-8.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_text_bytes() -> usize {
    STATE.with_borrow(|state| state.text.len())
}

/// Makes the text the network's description, in JSON: 1.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_describe(handle: usize) -> usize {
    let describe = |state: &mut State| {
        state.text = state.network(handle)?.describe()?;
        Ok(1)
    };
    guarded(describe, 0)
}

/// Room for so many input samples.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_input(handle: usize, samples: usize) -> *mut f32 {
    with(handle, |network| network.input(samples), std::ptr::null_mut())
}

/// Runs the samples: the outputs, until the next call.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_run(handle: usize) -> *const f32 {
    with(handle, Network::run, std::ptr::null())
}

/// Predicts the samples' classes under the posterior: by moments, or by `networks` networks of it if that is
/// not 0. For each sample the probabilities, their standard deviations, entropy and mutual information.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_predict(handle: usize, networks: usize, seed: u32) -> *const f32 {
    with(handle, |network| network.predict(networks, seed.into()), std::ptr::null())
}

/// The kept weights of a layer, row by row.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_values(handle: usize, layer: usize) -> *const f32 {
    with(handle, |network| network.values(layer), std::ptr::null())
}

/// Their columns.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_columns(handle: usize, layer: usize) -> *const u32 {
    let columns = |network: &mut Network| Ok(network.layer(layer)?.pattern.columns().as_ptr());
    with(handle, columns, std::ptr::null())
}

/// Where each row begins among them, and the end.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_row_starts(handle: usize, layer: usize) -> *const u32 {
    let starts = |network: &mut Network| Ok(network.layer(layer)?.pattern.row_starts().as_ptr());
    with(handle, starts, std::ptr::null())
}
