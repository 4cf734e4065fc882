//! The functions of `include/svdo.h`, which documents them.
//!
//! Every function catches panics, so that none crosses into C; in builds that abort on panic there
//! is nothing to catch.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use std::sync::Arc;

use svdo::engine::uncertain::UncertainEngine;
use svdo::engine::{Engine, Isa, Options};
use svdo::network::Shape;
use svdo::uncertainty::Task;
use svdo::{Error, container, data};

/// `svdo_model`.
#[derive(Debug)]
pub struct Model {
    engine: Arc<Engine>,
    classes: Vec<CString>,
}

/// `svdo_predictor`.
#[derive(Debug)]
pub struct Predictor {
    engine: UncertainEngine,
    seed: u64,
}

/// `svdo_shape`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct CShape {
    channels: usize,
    height: usize,
    width: usize,
}

const OK: c_int = 0;
const INVALID_ARGUMENT: c_int = 1;
const INVALID_FILE: c_int = 2;
const UNSUPPORTED_VERSION: c_int = 3;
const LIMIT: c_int = 4;
const WORKSPACE_TOO_SMALL: c_int = 5;
const INTERNAL: c_int = 6;
const NOT_FINITE: c_int = 7;

thread_local! {
    static MESSAGE: RefCell<CString> = RefCell::default();
}

/// What went wrong: a status and its text.
type Failure = (c_int, String);

/// Runs `work`, and turns its failure or panic into a status and this thread's message.
fn guarded(work: impl FnOnce() -> Result<(), Failure>) -> c_int {
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err((INTERNAL, "a defect of svdo: please report it with the file".into()))
    });
    let (status, text) = result.err().unwrap_or_default();
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    MESSAGE.with(|message| message.replace(text));
    status
}

fn failure(error: Error) -> Failure {
    let status = match error {
        Error::Version { .. } => UNSUPPORTED_VERSION,
        Error::Limit { .. } => LIMIT,
        Error::Data { .. } | Error::Argument { .. } => INVALID_ARGUMENT,
        _ => INVALID_FILE,
    };
    (status, error.line())
}

fn invalid(problem: &str) -> Failure {
    (INVALID_ARGUMENT, problem.into())
}

/// A slice of C's.
///
/// # Safety
/// Unless it is null or `length` is 0, `from` points to `length` initialised values that nothing
/// writes during `'a`.
unsafe fn slice<'a, T>(from: *const T, length: usize, name: &str) -> Result<&'a [T], Failure> {
    if length == 0 {
        return Ok(&[]);
    }
    if from.is_null() || !from.is_aligned() || length > isize::MAX as usize / size_of::<T>() {
        return Err(invalid(&format!("{name} is null, unaligned or too long")));
    }
    // SAFETY: not null, aligned and not too long, as just checked; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(from, length) })
}

/// A slice of C's that is written.
///
/// # Safety
/// As [`slice`], and nothing else reads or writes it during `'a`.
unsafe fn slice_mut<'a, T>(to: *mut T, length: usize, name: &str) -> Result<&'a mut [T], Failure> {
    if length == 0 {
        return Ok(&mut []);
    }
    if to.is_null() || !to.is_aligned() || length > isize::MAX as usize / size_of::<T>() {
        return Err(invalid(&format!("{name} is null, unaligned or too long")));
    }
    // SAFETY: as in `slice`.
    Ok(unsafe { std::slice::from_raw_parts_mut(to, length) })
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_load(
    bytes: *const c_void,
    length: usize,
    model: *mut *mut Model,
) -> c_int {
    guarded(|| {
        let make = |bytes: &[u8], isa| {
            let file = container::read(bytes)?;
            Ok(Model { engine: Arc::new(Engine::new(&file, isa)?), classes: classes(&file) })
        };
        // SAFETY: the caller's promise.
        unsafe { load((bytes, length), (model, "model"), make) }
    })
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_load_int8(
    bytes: *const c_void,
    length: usize,
    model: *mut *mut Model,
) -> c_int {
    guarded(|| {
        let make = |bytes: &[u8], isa| {
            let (file, ranges) = container::read_for_int8(bytes)?;
            let engine = Engine::in_int8(&file, &ranges, isa, Options::default())?;
            Ok(Model { engine: Arc::new(engine), classes: classes(&file) })
        };
        // SAFETY: the caller's promise.
        unsafe { load((bytes, length), (model, "model"), make) }
    })
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_load_stream(
    bytes: *const c_void,
    length: usize,
    steps: usize,
    model: *mut *mut Model,
) -> c_int {
    guarded(|| {
        let make = |bytes: &[u8], isa| {
            let file = container::read(bytes)?;
            // Others go on by samples of the one length that they have.
            let steps = file.network.time.as_ref().map(|_| steps);
            let options = Options { stream: true, steps, ..Options::default() };
            // The file is sound; that it is no stream is the caller's mistake.
            let engine =
                Engine::with_options(&file, isa, options).map_err(|error| match error {
                    Error::Network { problem } => Error::Data { problem },
                    error => error,
                })?;
            Ok(Model { engine: Arc::new(engine), classes: classes(&file) })
        };
        // SAFETY: the caller's promise.
        unsafe { load((bytes, length), (model, "model"), make) }
    })
}

/// The names of a file's classes for C.
fn classes(file: &svdo::model::Model) -> Vec<CString> {
    let name = |name: &str| CString::new(name.replace('\0', " ")).unwrap_or_default();
    file.network.classes().into_iter().map(name).collect()
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_longest(model: *const Model) -> usize {
    // SAFETY: the caller's promise.
    let time = unsafe { engine(model) }.and_then(Engine::time);
    time.map_or(0, |time| time.longest)
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_at(
    model: *const Model,
    steps: usize,
    other: *mut *mut Model,
) -> c_int {
    guarded(|| {
        if other.is_null() {
            return Err(invalid("other is null"));
        }
        // SAFETY: not null; the caller promises a place for a pointer.
        unsafe { other.write(std::ptr::null_mut()) };
        // SAFETY: null, or a model of `svdo_load` that is not freed, as the caller promises.
        let model = unsafe { model.as_ref() }.ok_or_else(|| invalid("model is null"))?;
        let engine = model.engine.at(steps).map_err(failure)?;
        let made = Box::new(Model { engine, classes: model.classes.clone() });
        // SAFETY: as above.
        unsafe { other.write(Box::into_raw(made)) };
        Ok(())
    })
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_free(model: *mut Model) {
    guarded(|| {
        if !model.is_null() {
            // SAFETY: the caller promises a pointer that `svdo_load` gave and nobody uses any more.
            drop(unsafe { Box::from_raw(model) });
        }
        Ok(())
    });
}

/// The engine behind a pointer of C's.
///
/// # Safety
/// Null, or a model of `svdo_load` that is not freed during `'a`.
unsafe fn engine<'a>(model: *const Model) -> Option<&'a Engine> {
    // SAFETY: the caller's promise.
    unsafe { model.as_ref() }.map(|model| &*model.engine)
}

fn shape(shape: Shape) -> CShape {
    CShape { channels: shape.channels, height: shape.height, width: shape.width }
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_input_shape(model: *const Model) -> CShape {
    // SAFETY: the caller's promise.
    unsafe { engine(model) }.map_or_else(CShape::default, |engine| shape(engine.input_shape()))
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_output_shape(model: *const Model) -> CShape {
    // SAFETY: the caller's promise.
    unsafe { engine(model) }.map_or_else(CShape::default, |engine| shape(engine.output_shape()))
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_class_name(
    model: *const Model,
    class_number: usize,
) -> *const c_char {
    // SAFETY: null, or a model of `svdo_load` that is not freed, as the caller promises.
    let name = unsafe { model.as_ref() }.and_then(|model| model.classes.get(class_number));
    name.map_or(std::ptr::null(), |name| name.as_ptr())
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_workspace_bytes(model: *const Model, batch: usize) -> usize {
    // SAFETY: the caller's promise.
    let Some(engine) = (unsafe { engine(model) }) else { return 0 };
    engine.workspace_floats(batch).saturating_mul(size_of::<f32>())
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_run(
    model: *const Model,
    workspace: *mut c_void,
    workspace_bytes: usize,
    input: *const f32,
    samples: usize,
    output: *mut f32,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise.
        let engine = unsafe { engine(model) }.ok_or_else(|| invalid("model is null"))?;
        let length = |shape: Shape| {
            let total = shape.elements().map_err(failure)?.checked_mul(samples);
            total.ok_or_else(|| invalid("samples are too many"))
        };
        let (ins, outs) = (length(engine.input_shape())?, length(engine.output_shape())?);
        let needed = engine.workspace_floats(1) * size_of::<f32>();
        if workspace_bytes < needed {
            let problem = format!(
                "a workspace of {workspace_bytes} bytes, at least {needed} are needed: ask \
                 svdo_workspace_bytes"
            );
            return Err((WORKSPACE_TOO_SMALL, problem));
        }
        // SAFETY: the caller promises the three arrays, apart from each other, and the workspace
        // initialised: any bits are an f32.
        let (arena, x, y) = unsafe {
            (
                slice_mut(workspace.cast::<f32>(), workspace_bytes / 4, "workspace")?,
                slice(input, ins, "input")?,
                slice_mut(output, outs, "output")?,
            )
        };
        let finite = |what, values: &[f32], shape: Shape| {
            let each = shape.elements().map_err(failure)?;
            data::finite(what, values, each).map_err(|error| (NOT_FINITE, error.line()))
        };
        finite("element", x, engine.input_shape())?;
        engine.run_within(arena, x, y).map_err(failure)?;
        finite("output", y, engine.output_shape())
    })
}

/// Reads a file that C has in memory and makes something of it, into a place of C's.
///
/// # Safety
/// `to` is null or a place for a pointer, `bytes` as in [`slice`].
unsafe fn load<T>(
    (bytes, length): (*const c_void, usize),
    (to, name): (*mut *mut T, &str),
    make: impl FnOnce(&[u8], Isa) -> svdo::Result<T>,
) -> Result<(), Failure> {
    if to.is_null() {
        return Err(invalid(&format!("{name} is null")));
    }
    // SAFETY: not null; the caller promises a place for a pointer.
    unsafe { to.write(std::ptr::null_mut()) };
    // SAFETY: the caller promises `length` bytes.
    let bytes = unsafe { slice(bytes.cast::<u8>(), length, "bytes") }?;
    let isa = Isa::detect(None).map_err(failure)?;
    let loaded = Box::into_raw(Box::new(make(bytes, isa).map_err(failure)?));
    // SAFETY: as above.
    unsafe { to.write(loaded) };
    Ok(())
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_predictor_load(
    bytes: *const c_void,
    length: usize,
    how: *const c_char,
    seed: u64,
    predictor: *mut *mut Predictor,
) -> c_int {
    guarded(|| {
        let make = |bytes: &[u8], isa| {
            let problem = |problem: &str| Error::Argument { problem: problem.into() };
            if how.is_null() {
                return Err(problem("how is null"));
            }
            // SAFETY: not null; the caller promises a string of C's.
            let how = unsafe { CStr::from_ptr(how) }.to_str();
            let how = how.map_err(|_| problem("how is no UTF-8"))?.parse()?;
            let file = container::read_with_variances(bytes)?;
            let file = (&file.0, file.1);
            let engine = UncertainEngine::of_file(file, how, seed, isa, Options::default())?;
            Ok(Predictor { engine, seed })
        };
        // SAFETY: the caller's promise.
        unsafe { load((bytes, length), (predictor, "predictor"), make) }
    })
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_predictor_free(predictor: *mut Predictor) {
    guarded(|| {
        if !predictor.is_null() {
            // SAFETY: the caller promises a pointer that `svdo_predictor_load` gave and nobody uses any more.
            drop(unsafe { Box::from_raw(predictor) });
        }
        Ok(())
    });
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_predictor_input_shape(predictor: *const Predictor) -> CShape {
    // SAFETY: the caller's promise.
    let predictor = unsafe { predictor.as_ref() };
    predictor.map_or_else(CShape::default, |predictor| shape(predictor.engine.input_shape()))
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_predictor_classes(predictor: *const Predictor) -> usize {
    // SAFETY: the caller's promise.
    unsafe { predictor.as_ref() }.map_or(0, |predictor| predictor.engine.outputs())
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_predict(
    predictor: *const Predictor,
    input: *const f32,
    samples: usize,
    output: *mut f32,
) -> c_int {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { predict(predictor, (input, samples), output, Task::Classes) })
}

/// See `svdo.h`.
///
/// # Safety
/// As `svdo.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn svdo_predict_numbers(
    predictor: *const Predictor,
    input: *const f32,
    samples: usize,
    output: *mut f32,
) -> c_int {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { predict(predictor, (input, samples), output, Task::Regression) })
}

/// Predicts samples into a row for each.
///
/// # Safety
/// As `svdo.h` says of both functions.
unsafe fn predict(
    predictor: *const Predictor,
    (input, samples): (*const f32, usize),
    output: *mut f32,
    task: Task,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let predictor = unsafe { predictor.as_ref() };
    let Predictor { engine, seed } = predictor.ok_or_else(|| invalid("predictor is null"))?;
    let each = engine.input_shape().elements().map_err(failure)?;
    let row = task.row(engine.outputs());
    let length =
        |each: usize| each.checked_mul(samples).ok_or_else(|| invalid("samples are too many"));
    // SAFETY: the caller promises both arrays, apart from each other.
    let (x, y) = unsafe {
        (slice(input, length(each)?, "input")?, slice_mut(output, length(row)?, "output")?)
    };
    let not_finite = |error: Error| (NOT_FINITE, error.line());
    data::finite("element", x, each).map_err(not_finite)?;
    engine.check_input(x).map_err(failure)?;
    // What else may go wrong is an output.
    engine.predict_into(x, task, *seed, y).map_err(not_finite)
}

/// See `svdo.h`.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_message() -> *const c_char {
    MESSAGE.with(|message| message.borrow().as_ptr())
}

/// See `svdo.h`.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_status_name(status: c_int) -> *const c_char {
    let name: &CStr = match status {
        OK => c"ok",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_FILE => c"invalid file",
        UNSUPPORTED_VERSION => c"unsupported version",
        LIMIT => c"limit exceeded",
        WORKSPACE_TOO_SMALL => c"workspace too small",
        INTERNAL => c"internal error",
        NOT_FINITE => c"not finite",
        _ => c"unknown status",
    };
    name.as_ptr()
}

/// See `svdo.h`.
#[unsafe(no_mangle)]
pub extern "C" fn svdo_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
