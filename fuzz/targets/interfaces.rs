//! Any bytes as requests to `serve`, and as a file for the C interface.

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use svdo::engine::{Engine, Isa, Options};
use svdo::serve::serve as answer;

use super::c_interface as c;
use super::choices::Choices;
use super::container::sealed;
use super::networks::model;

/// A model, its file's length first, then requests: every one is answered until the input ends.
pub fn serve(bytes: &[u8]) {
    let [length, choice, rest @ ..] = bytes else { return };
    let (first, mut requests) = rest.split_at(usize::from(*length).min(rest.len()));
    let Some(model) = model(&mut Choices(first)) else { return };
    let options = Options { threads: 1 + usize::from(choice & 1), ..Options::default() };
    let Ok(engine) = Engine::with_options(&model, Isa::best(), options) else { return };
    let mut replies = Vec::new();
    let all = requests;
    let _ = answer(&engine, &mut requests, &mut replies);
    // Whole replies, the first one the greeting.
    let (mut rest, mut count) = (&replies[..], 0);
    while let [a, b, c, d, e, f, g, h, body @ ..] = rest {
        let status = u32::from_le_bytes([*a, *b, *c, *d]);
        assert!(status < 2);
        let length = u32::from_le_bytes([*e, *f, *g, *h]) as usize;
        rest = &body[length..];
        count += 1;
    }
    assert!(rest.is_empty());
    assert!((1..=1 + all.len() / 4).contains(&count), "{count} replies");
}

/// Loads, runs with a workspace of some size, and frees.
pub fn c(bytes: &[u8]) {
    let [samples, workspace, rest @ ..] = bytes else { return };
    let file = sealed(rest);
    let mut model = null_mut();
    // SAFETY: the file's bytes and a place for a pointer.
    let status = unsafe { c::svdo_load(file.as_ptr().cast(), file.len(), &raw mut model) };
    // SAFETY: a text of the interface, which lives until this thread's next call.
    let message = unsafe { CStr::from_ptr(c::svdo_message()) };
    assert_eq!((status == 0, status == 0), (message.is_empty(), !model.is_null()));
    // A panic inside is caught by the interface.
    assert_ne!(status, 6, "{message:?}");
    let samples = usize::from(samples & 7);
    // SAFETY: a loaded model, or null, which is allowed.
    let (input, output, bytes) = unsafe {
        (
            c::svdo_input_shape(model),
            c::svdo_output_shape(model),
            c::svdo_workspace_bytes(model, samples),
        )
    };
    let (input, output) = (elements(input), elements(output));
    if input.saturating_add(output) < 1 << 12 && bytes < 1 << 20 {
        let bytes = bytes * usize::from(workspace & 3) / 2;
        let mut memory = vec![0u32; bytes / 4];
        let (x, mut y) = (vec![0.25f32; input * samples], vec![0.0f32; output * samples]);
        // SAFETY: memory of the lengths given, apart from each other.
        let status = unsafe {
            c::svdo_run(
                model,
                memory.as_mut_ptr().cast(),
                bytes,
                x.as_ptr(),
                samples,
                y.as_mut_ptr(),
            )
        };
        assert_ne!(status, 6);
        // SAFETY: nulls are refused or ignored.
        unsafe { c::svdo_run(model, null_mut(), 0, null(), samples, null_mut()) };
    }
    // SAFETY: loaded above or null, and not used any more.
    unsafe { c::svdo_free(model) };
}

/// Of a shape as C sees it.
fn elements(shape: c::CShape) -> usize {
    // SAFETY: the struct has the layout of C's, three numbers.
    let dims: [usize; 3] = unsafe { std::mem::transmute(shape) };
    dims.iter().fold(1, |n, &d| n.saturating_mul(d))
}
