//! What the two faces of every mechanism share: the Rust types and the C entry points answer with
//! the same outcomes, so that one test body can hold both to the same promises.

use std::ffi::{CStr, CString, c_int};

use madang::ffi::base::mdg_last_error;
use madang::{Access, Creation, OpenFlags};
use nix::errno::Errno;

pub const NOWAIT: i64 = 0;
pub const FOREVER: i64 = -1;

/// What a call refused with: a positive errno and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: c_int,
    pub text: String,
}

pub type Outcome<T> = Result<T, Failure>;

impl From<madang::Error> for Failure {
    fn from(error: madang::Error) -> Self {
        Self { code: error.errno(), text: error.text().to_owned() }
    }
}

/// The code of a call that must have failed.
#[track_caller]
pub fn refused<T>(outcome: Outcome<T>) -> Errno {
    match outcome {
        Ok(_) => panic!("succeeded where it must not"),
        Err(failure) => Errno::from_raw(failure.code),
    }
}

/// A call must have failed with this code, and its text must hold `words`.
#[track_caller]
pub fn refused_with<T: std::fmt::Debug>(outcome: Outcome<T>, errno: c_int, words: &str) {
    match outcome {
        Err(Failure { code, text }) => {
            assert_eq!(code, errno, "{text}");
            assert!(text.contains(words), "{text:?} does not say {words:?}");
        }
        Ok(value) => panic!("succeeded with {value:?}"),
    }
}

/// This thread's `mdg_last_error`.
pub fn last_error() -> String {
    // SAFETY: never NULL, NUL-terminated, and copied before this thread's next failing call.
    unsafe { CStr::from_ptr(mdg_last_error()) }.to_string_lossy().into_owned()
}

/// What the result of the C call just made, errno and `mdg_last_error` say together.
#[track_caller]
pub fn outcome(result: isize) -> Outcome<usize> {
    if let Ok(count) = usize::try_from(result) {
        return Ok(count);
    }
    let code = Errno::last_raw();
    assert_eq!(-result, code as isize, "errno is the code");
    let expected = match code {
        libc::EAGAIN => "would have to wait",
        libc::ETIMEDOUT => "time",
        libc::EINTR => "signal",
        _ => "",
    };
    if !expected.is_empty() {
        let text = last_error();
        assert!(text.contains(expected), "{code}: {text}, which is another call's");
        return Err(Failure { code, text: String::new() });
    }
    let text = last_error();
    assert!(!text.is_empty());
    Err(Failure { code, text })
}

/// Makes a C call and holds it to the rules for results: errno, `mdg_last_error`.
#[track_caller]
pub fn answer<R: TryInto<isize>>(call: impl FnOnce() -> R) -> Outcome<usize> {
    const UNTOUCHED: c_int = 4095;
    Errno::set_raw(UNTOUCHED);
    let result = call().try_into().ok().unwrap();
    let outcome = outcome(result);
    if outcome.is_ok() {
        assert_eq!(Errno::last_raw(), UNTOUCHED, "success leaves errno alone");
    }
    outcome
}

/// The same for a C call that answers 0 when it has done its work.
#[track_caller]
pub fn done(call: impl FnOnce() -> c_int) -> Outcome<()> {
    answer(call).map(|zero| assert_eq!(zero, 0))
}

/// Bytes as C takes them.
pub fn c_string(text: impl AsRef<[u8]>) -> CString {
    CString::new(text.as_ref()).unwrap()
}

/// C's open flags in Rust's words.
pub fn open_flags(oflag: c_int) -> OpenFlags {
    let access = match oflag & libc::O_ACCMODE {
        libc::O_RDONLY => Access::ReadOnly,
        libc::O_WRONLY => Access::WriteOnly,
        _ => Access::ReadWrite,
    };
    let creation = match (oflag & libc::O_CREAT != 0, oflag & libc::O_EXCL != 0) {
        (false, _) => Creation::OpenOnly,
        (true, false) => Creation::CreateOrOpen,
        (true, true) => Creation::CreateNew,
    };
    OpenFlags::new(access, creation)
}

/// Makes tests of generic functions, `rust_face::name` for the Rust type and `c_face::name` for the
/// C entry points. Those `in turn` run one at a time; see `serial`.
#[macro_export]
macro_rules! on_both_faces {
    ($rust:ident, $c:ident: $($test:ident)*) => {
        mod rust_face { $( #[test] fn $test() { super::$test::<super::$rust>() } )* }
        mod c_face { $( #[test] fn $test() { super::$test::<super::$c>() } )* }
    };
    ($rust:ident, $c:ident in turn: $($test:ident)*) => {
        mod rust_face { $( #[test] fn $test() {
            let _turn = $crate::support::process::serial();
            super::$test::<super::$rust>()
        } )* }
        mod c_face { $( #[test] fn $test() {
            let _turn = $crate::support::process::serial();
            super::$test::<super::$c>()
        } )* }
    };
}
