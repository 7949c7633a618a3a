//! Segments, semaphores, mutexes and condition variables.

use std::path::Path;

use madang::sem::UndoOptions;

use super::{Case, NEW, OPEN, SHORT, Thing, answering, case, making, opening};
use crate::support::face::NOWAIT;
use crate::support::mutex_face::{CMutex, Locks};
use crate::support::sem_face::{CSem, Permits};
use crate::support::shm_face::{CShm, Segment};
use crate::support::undo_face::Undo;

pub fn segments() -> Vec<Case> {
    const SIZE: usize = 10_000;
    let open = |name: &str, oflag| {
        let size = if oflag & libc::O_CREAT != 0 { SIZE } else { 0 };
        CShm::open(name.as_bytes(), size, oflag, 0o600)
    };
    let whole = |shm: &CShm| {
        assert_eq!((shm.size(), shm.object_size()), (SIZE, SIZE as i64));
        shm.put(SIZE - 3, b"end");
        assert_eq!(shm.get(SIZE - 3, 3), b"end");
    };
    let file = |thing: &Thing, oflag| CShm::map_file(Path::new(&thing.path), SIZE, oflag, 0o600);
    vec![
        making("mdg_shm_open, new", "", open, whole),
        opening("mdg_shm_open, there", "", open, whole),
        case(
            "mdg_shm_anonymous",
            || (),
            |()| CShm::anonymous(SIZE, false),
            move |(), made| {
                whole(&made.unwrap_or_else(|_| CShm::anonymous(SIZE, false).unwrap()));
            },
        ),
        case(
            "mdg_shm_from_fd",
            || CShm::anonymous(SIZE, false).unwrap(),
            |shm| CShm::from_fd(shm.fd(), OPEN),
            move |shm, made| {
                whole(&made.unwrap_or_else(|_| CShm::from_fd(shm.fd(), OPEN).unwrap()))
            },
        ),
        case(
            "mdg_shm_map_file, new",
            || Thing::new("file-"),
            move |thing| file(thing, NEW),
            move |thing, made| {
                assert_eq!(thing.exists(), made.is_ok());
                whole(&made.unwrap_or_else(|_| file(thing, NEW).unwrap()));
            },
        ),
        case(
            "mdg_shm_resize",
            || CShm::anonymous(4096, false).unwrap(),
            |shm| shm.resize(SIZE),
            move |shm, grown| {
                if grown.is_err() {
                    assert_eq!((shm.size(), shm.object_size()), (4096, 4096));
                    shm.put(0, b"old");
                    shm.resize(SIZE).unwrap();
                    assert_eq!(shm.get(0, 3), b"old");
                }
                whole(shm);
            },
        ),
    ]
}

pub fn semaphores() -> Vec<Case> {
    let posix = |name: &str, oflag| <CSem as Permits>::open(name.as_bytes(), 3, oflag, 0o600);
    let undo = |name: &str, oflag| {
        let options = UndoOptions { value: 3, max_handles: 8, ..UndoOptions::default() };
        <CSem as Undo>::open(name, &options, oflag, 0o600)
    };
    let counts = |sem: &CSem| {
        Permits::wait(sem, NOWAIT).unwrap();
        Permits::post(sem).unwrap();
        assert_eq!(Permits::value(sem), 3);
    };
    vec![
        making("mdg_sem_open, new", "sem.", posix, counts),
        opening("mdg_sem_open, there", "sem.", posix, counts),
        making("mdg_sem_open with MDG_SEM_UNDO, new", "mdg.sem.", undo, counts),
        opening("mdg_sem_open with MDG_SEM_UNDO, there", "mdg.sem.", undo, counts),
        answering(
            case(
                "mdg_sem_wait with MDG_SEM_UNDO, in vain",
                move || {
                    let thing = Thing::new("mdg.sem.");
                    let (first, second) =
                        (undo(&thing.name, NEW).unwrap(), undo(&thing.name, OPEN).unwrap());
                    (0..3).for_each(|_| Permits::wait(&first, NOWAIT).unwrap());
                    (first, second, thing)
                },
                |(_, sem, _)| Permits::wait(sem, SHORT),
                |(first, second, _), _| {
                    assert_eq!(Permits::value(second), 0);
                    Permits::post(first).unwrap();
                    Permits::wait(second, NOWAIT).unwrap();
                },
            ),
            &[libc::ETIMEDOUT],
        ),
    ]
}

pub fn mutexes() -> Vec<Case> {
    let mutex = |name: &str, oflag| CMutex::open(name, oflag, 0o600);
    let cond = |name: &str, oflag| CMutex::open_cond(name, oflag, 0o600);
    let locks = |mutex: &CMutex| {
        assert!(!mutex.lock(NOWAIT).unwrap());
        mutex.unlock().unwrap();
    };
    vec![
        making("mdg_mutex_open, new", "mdg.mutex.", mutex, locks),
        opening("mdg_mutex_open, there", "mdg.mutex.", mutex, locks),
        making("mdg_cond_open, new", "mdg.cond.", cond, CMutex::signal),
        opening("mdg_cond_open, there", "mdg.cond.", cond, CMutex::signal),
        answering(
            case(
                "mdg_cond_wait, in vain",
                move || {
                    let things = (Thing::new("mdg.mutex."), Thing::new("mdg.cond."));
                    let mutex = mutex(&things.0.name, NEW).unwrap();
                    let cond = cond(&things.1.name, NEW).unwrap();
                    assert!(!mutex.lock(NOWAIT).unwrap());
                    (mutex, cond, things)
                },
                |(mutex, cond, _)| mutex.wait(cond, SHORT),
                |(mutex, ..), _| mutex.unlock().unwrap(),
            ),
            &[libc::ETIMEDOUT],
        ),
    ]
}
