#![forbid(unsafe_code)]
//! How much memory a process may still take before the kernel kills somebody for it: what the
//! machine has, and what the process's memory cgroup and the cgroups above it have left.
//!
//! Version 2 of cgroups, version 1, and both at once (memory is then in one of them). Inside a cgroup
//! namespace, and in a container that sees nothing but its own part of the tree, paths begin at what
//! can be seen. A file that is missing, or that cannot be understood, sets no limit.
//!
//! Pages of files count as free, as `MemAvailable` has it: the kernel takes them back.
//!
//! Nothing is allocated: files are read line by line, and no line is longer than [`LINE`].

use std::ffi::CStr;
use std::fmt;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// Longest line that is understood.
const LINE: usize = 1024;

/// Longest path of a cgroup, and of the files in it.
const PATH: usize = 512;

/// Calls `each` with the lines of a file, without their ends, until it says that it has seen enough
/// (`false`). Lines that are too long are left out.
fn lines(path: &CStr, mut each: impl FnMut(&[u8]) -> bool) -> Option<()> {
    let file: OwnedFd = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let (mut buffer, mut len, mut skipping) = ([0_u8; LINE], 0, false);
    loop {
        let count = match nix::unistd::read(&file, &mut buffer[len..]) {
            Ok(count) => count,
            Err(Errno::EINTR) => continue,
            Err(_) => return None,
        };
        if count == 0 {
            if len > 0 && !skipping {
                each(&buffer[..len]);
            }
            return Some(());
        }
        len += count;
        let mut from = 0;
        while let Some(end) = buffer[from..len].iter().position(|&byte| byte == b'\n') {
            if !std::mem::take(&mut skipping) && !each(&buffer[from..from + end]) {
                return Some(());
            }
            from += end + 1;
        }
        buffer.copy_within(from..len, 0);
        len -= from;
        if len == LINE {
            (len, skipping) = (0, true);
        }
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// The number behind `key` on a line of /proc/meminfo or memory.stat.
fn field(line: &[u8], key: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(key)?.trim_ascii();
    number(rest.strip_suffix(b"kB").unwrap_or(rest))
}

/// A path, on the stack.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    bytes: [u8; PATH],
    len: usize,
}

impl Path {
    const NONE: Self = Self { bytes: [0; PATH], len: 0 };

    fn of(parts: &[&[u8]]) -> Option<Self> {
        let mut path = Self::NONE;
        for part in parts {
            let end = path.len.checked_add(part.len()).filter(|&end| end < PATH)?;
            path.bytes[path.len..end].copy_from_slice(part);
            path.len = end;
        }
        Some(path)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

/// Names of a version's files, and of what counts as free in its memory.stat.
struct Version {
    limit: &'static [u8],
    usage: &'static [u8],
    free: [&'static [u8]; 2],
}

const V1: Version = Version {
    limit: b"/memory.limit_in_bytes",
    usage: b"/memory.usage_in_bytes",
    free: [b"total_inactive_file ", b"total_active_file "],
};

const V2: Version = Version {
    limit: b"/memory.max",
    usage: b"/memory.current",
    free: [b"inactive_file ", b"active_file "],
};

/// The path of the process's cgroup, by a line of /proc/self/cgroup, if it is the one for memory of
/// version 1 (`true`) or the one of version 2.
fn cgroup_line(line: &[u8]) -> Option<(bool, &[u8])> {
    let mut parts = line.splitn(3, |&byte| byte == b':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let is_v1 = controllers.split(|&byte| byte == b',').any(|name| name == b"memory");
    (is_v1 || controllers.is_empty()).then_some((is_v1, path))
}

/// Which part of the tree is mounted, and where, by a line of /proc/self/mountinfo, if it is that of
/// memory of version 1 (`true`) or that of version 2.
fn mount_line(line: &[u8]) -> Option<(bool, &[u8], &[u8])> {
    let middle = line.windows(3).position(|three| three == b" - ")?;
    let mut before = line[..middle].split(|&byte| byte == b' ').skip(3);
    let (root, at) = (before.next()?, before.next()?);
    let mut after = line[middle + 3..].split(|&byte| byte == b' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let is_v1 =
        kind == b"cgroup" && options.split(|&byte| byte == b',').any(|option| option == b"memory");
    (is_v1 || kind == b"cgroup2").then_some((is_v1, root, at))
}

/// The directory of the cgroup `path`, where the part `root` of the tree is mounted at `at`. What is
/// not below `root` cannot be seen: then the uppermost that can.
fn directory(path: &[u8], root: &[u8], at: &[u8]) -> Option<Path> {
    let root = if root == b"/" { &b""[..] } else { root };
    let below = path.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with(b"/"));
    let below = below.filter(|rest| !rest.starts_with(b"/.."));
    let below = below.unwrap_or(b"").strip_suffix(b"/").or(below).unwrap_or(b"");
    Path::of(&[at, below])
}

/// What a cgroup has left.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub bytes: u64,
    /// The file that says how much it may have.
    pub file: Path,
}

fn left(directory: &[u8], version: &Version) -> Option<Left> {
    let value = |name: &[u8]| {
        let (path, mut value) = (Path::of(&[directory, name])?, None);
        lines(path.as_c_str(), |line| {
            value = number(line);
            false
        });
        value
    };
    let (limit, usage) = (value(version.limit)?, value(version.usage)?);
    let mut free = 0_u64;
    if let Some(path) = Path::of(&[directory, b"/memory.stat"]) {
        lines(path.as_c_str(), |line| {
            let found = version.free.iter().find_map(|key| field(line, key));
            free = free.saturating_add(found.unwrap_or(0));
            true
        });
    }
    let bytes = limit.saturating_sub(usage.saturating_sub(free));
    Some(Left { bytes, file: Path::of(&[directory, version.limit])? })
}

/// The least that the process's memory cgroup and those above it have left; `None` without a limit.
pub(crate) fn left_in_cgroup() -> Option<Left> {
    let mut own = [Path::NONE; 2];
    lines(c"/proc/self/cgroup", |line| {
        if let Some((is_v1, path)) = cgroup_line(line) {
            own[usize::from(is_v1)] = Path::of(&[path]).unwrap_or(Path::NONE);
        }
        true
    })?;
    let mut least: Option<Left> = None;
    for (is_v1, version) in [(false, &V2), (true, &V1)] {
        let path = own[usize::from(is_v1)];
        let (mut top, mut here) = (0, None);
        lines(c"/proc/self/mountinfo", |line| match mount_line(line) {
            Some((kind, root, at)) if kind == is_v1 && path.len > 0 => {
                (top, here) = (at.len(), directory(path.as_bytes(), root, at));
                false
            }
            _ => true,
        })?;
        let Some(here) = here else { continue };
        let mut directory = here.as_bytes();
        loop {
            if let Some(left) = left(directory, version)
                && least.is_none_or(|least| left.bytes < least.bytes)
            {
                least = Some(left);
            }
            let Some(up) = directory.iter().rposition(|&byte| byte == b'/') else { break };
            if up < top {
                break;
            }
            directory = &directory[..up];
        }
    }
    least
}

/// `MemAvailable` and `SwapFree` of /proc/meminfo, in bytes; `None` where it is missing.
pub(crate) fn left_on_machine() -> Option<u64> {
    let (mut available, mut swap) = (None, 0_u64);
    lines(c"/proc/meminfo", |line| {
        available = available.or(field(line, b"MemAvailable:"));
        match field(line, b"SwapFree:") {
            Some(free) => swap = free,
            None => return true,
        }
        false
    });
    available?.checked_add(swap)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_cgroup() {
        assert_eq!(cgroup_line(b"4:memory:/docker/12"), Some((true, &b"/docker/12"[..])));
        assert_eq!(cgroup_line(b"4:cpu,memory:/a:b"), Some((true, &b"/a:b"[..])));
        assert_eq!(cgroup_line(b"0::/"), Some((false, &b"/"[..])));
        for other in [&b"1:name=systemd:/"[..], b"3:cpuset:/x", b"", b"0:", b"7:memoryx:/"] {
            assert_eq!(cgroup_line(other), None);
        }
    }

    #[test]
    fn lines_of_mountinfo() {
        let v1 = b"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 master:2 - cgroup cgroup rw,memory";
        assert_eq!(mount_line(v1), Some((true, &b"/"[..], &b"/sys/fs/cgroup/memory"[..])));
        let both = b"35 31 0:32 /docker/1 /m rw - cgroup none rw,cpu,memory";
        assert_eq!(mount_line(both), Some((true, &b"/docker/1"[..], &b"/m"[..])));
        let v2 = b"30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot";
        assert_eq!(mount_line(v2), Some((false, &b"/"[..], &b"/sys/fs/cgroup"[..])));
        for other in [
            &b"33 31 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct"[..],
            b"22 1 8:1 / / rw - ext4 /dev/sda1 rw",
            b"22 1 8:1 / / rw",
            b"",
            b" - cgroup2",
        ] {
            assert_eq!(mount_line(other), None);
        }
    }

    #[test]
    fn directories() {
        let at = |path: &[u8], root: &[u8]| directory(path, root, b"/c").unwrap().to_string();
        assert_eq!(at(b"/a/b", b"/"), "/c/a/b");
        // In a namespace of its own, or at the top.
        assert_eq!(at(b"/", b"/"), "/c");
        // A container that has its own part of the tree mounted and sees the whole path.
        assert_eq!(at(b"/docker/12", b"/docker/12"), "/c");
        assert_eq!(at(b"/docker/12/x", b"/docker/12"), "/c/x");
        assert_eq!(at(b"/docker/123", b"/docker/12"), "/c");
        assert_eq!(at(b"/../other", b"/"), "/c");
        assert!(directory(&[b'x'; PATH], b"/", b"/c").is_some_and(|top| top.as_bytes() == b"/c"));
        let long = [&b"/"[..], &[b'x'; PATH]].concat();
        assert!(directory(&long, b"/", b"/c").is_none());
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"max"), None);
        assert_eq!(number(b" 12\n"), Some(12));
        assert_eq!(field(b"MemAvailable:   54 kB", b"MemAvailable:"), Some(54));
        assert_eq!(field(b"inactive_file 4096", b"inactive_file "), Some(4096));
        assert_eq!(field(b"active_file 4096", b"inactive_file "), None);
        assert!(left_on_machine().unwrap() > 1 << 20);
    }

    #[test]
    fn what_two_files_say() {
        let dir = std::env::temp_dir().join(format!("mdg-cgroup-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        let bytes = dir.as_os_str().as_encoded_bytes();
        let ask = |version| left(bytes, version).map(|left| left.bytes);
        assert_eq!(ask(&V2), None);
        put("memory.current", "900\n");
        put("memory.max", "max\n");
        assert_eq!(ask(&V2), None);
        put("memory.max", "1000\n");
        assert_eq!(ask(&V2), Some(100));
        put("memory.stat", "anon 5\ninactive_file 300\nactive_file 50\nslab 9\n");
        assert_eq!(ask(&V2), Some(450));
        assert!(left(bytes, &V2).unwrap().file.to_string().ends_with("/memory.max"));
        put("memory.limit_in_bytes", "9223372036854771712\n");
        put("memory.usage_in_bytes", "10\n");
        assert_eq!(ask(&V1), Some(9_223_372_036_854_771_702));
        put("memory.limit_in_bytes", "5\n");
        assert_eq!(ask(&V1), Some(0));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn long_lines_are_left_out() {
        let path = std::env::temp_dir().join(format!("mdg-lines-{}", std::process::id()));
        let long = "x".repeat(LINE * 3);
        std::fs::write(&path, format!("one\n{long}\ntwo\n{long}\n\nlast")).unwrap();
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        let mut seen = Vec::new();
        lines(&name, |line| {
            seen.push(String::from_utf8(line.to_vec()).unwrap());
            true
        })
        .unwrap();
        assert_eq!(seen, ["one", "two", "", "last"]);
        std::fs::remove_file(path).unwrap();
    }
}
