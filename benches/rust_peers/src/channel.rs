//! ipc-channel, its channel of bytes: nothing is serialised. Blocks.

use std::slice;

use ipc_channel::ipc::{bytes_channel, IpcBytesReceiver, IpcBytesSender};

pub struct Channel {
    sender: IpcBytesSender,
    receiver: IpcBytesReceiver,
}

#[no_mangle]
pub extern "C" fn channel_make() -> *mut Channel {
    let (sender, receiver) = bytes_channel().expect("bytes_channel");
    Box::into_raw(Box::new(Channel { sender, receiver }))
}

/// # Safety
/// `channel` comes from `channel_make`, `item` has `size` bytes.
#[no_mangle]
pub unsafe extern "C" fn channel_push(channel: *const Channel, item: *const u8, size: usize) {
    let item = unsafe { slice::from_raw_parts(item, size) };
    unsafe { &*channel }.sender.send(item).expect("send");
}

/// # Safety
/// `channel` comes from `channel_make`, `item` has room for `size` bytes.
#[no_mangle]
pub unsafe extern "C" fn channel_pop(channel: *const Channel, item: *mut u8, size: usize) {
    let got = unsafe { &*channel }.receiver.recv().expect("recv");
    assert_eq!(got.len(), size);
    unsafe { item.copy_from_nonoverlapping(got.as_ptr(), size) };
}
