//! iceoryx2 publish/subscribe, without overflow and with a publisher that waits for slow
//! subscribers, so that nothing is lost. Payloads are arrays of words, loaned and filled in place.

use std::ffi::{c_char, c_void, CStr};
use std::fmt::Debug;
use std::ptr;

use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::update_connections::UpdateConnections;
use iceoryx2::prelude::*;
use iceoryx2::sample::Sample;
use iceoryx2::sample_mut_uninit::SampleMutUninit;

type Service = ipc::Service;

/// One process's end: a publisher or a subscriber for items of one size.
pub trait End {
    fn reserve(&mut self) -> *mut c_void;
    fn commit(&mut self);
    fn peek(&mut self) -> *const c_void;
    fn release(&mut self);
}

struct Ends<T: ZeroCopySend + Debug + 'static> {
    loan: Option<SampleMutUninit<Service, std::mem::MaybeUninit<T>, ()>>,
    sample: Option<Sample<Service, T, ()>>,
    publisher: Option<Publisher<Service, T, ()>>,
    subscriber: Option<Subscriber<Service, T, ()>>,
    readers: usize,
    _node: Node<Service>,
}

impl<T: ZeroCopySend + Debug + 'static> Ends<T> {
    fn open(name: &str, capacity: usize, readers: usize, pops: bool) -> Self {
        let node = NodeBuilder::new().create::<Service>().expect("node");
        let service = node
            .service_builder(&name.try_into().expect("name"))
            .publish_subscribe::<T>()
            .enable_safe_overflow(false)
            .history_size(0)
            .subscriber_max_buffer_size(capacity)
            .subscriber_max_borrowed_samples(2)
            .max_publishers(1)
            .max_subscribers(readers)
            .max_nodes(readers + 1)
            .open_or_create()
            .expect("service");
        let subscriber = pops.then(|| service.subscriber_builder().create().expect("subscriber"));
        let publisher = (!pops).then(|| {
            service
                .publisher_builder()
                .max_loaned_samples(2)
                .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
                .create()
                .expect("publisher")
        });
        // Nothing is sent before every subscriber is there and connected.
        if let Some(publisher) = &publisher {
            while service.dynamic_config().number_of_subscribers() < readers {
                std::thread::yield_now();
            }
            publisher.update_connections().expect("connections");
        }
        // A subscriber connects when it receives, or here. One that has not yet is not waited for when its
        // buffer is full: the publisher leaves it out.
        if let Some(subscriber) = &subscriber {
            while service.dynamic_config().number_of_publishers() < 1 {
                std::thread::yield_now();
            }
            subscriber.update_connections().expect("connections");
        }
        Self { loan: None, sample: None, publisher, subscriber, readers, _node: node }
    }
}

impl<T: ZeroCopySend + Debug + 'static> End for Ends<T> {
    fn reserve(&mut self) -> *mut c_void {
        let publisher = self.publisher.as_ref().expect("a publisher");
        let loan = self.loan.insert(publisher.loan_uninit().expect("loan"));
        loan.payload_mut().as_mut_ptr().cast()
    }

    fn commit(&mut self) {
        // SAFETY: the caller has filled every word since `reserve`.
        let sample = unsafe { self.loan.take().expect("a loan").assume_init() };
        let receivers = sample.send().expect("send");
        assert_eq!(receivers, self.readers, "a subscriber was left out");
    }

    fn peek(&mut self) -> *const c_void {
        self.sample = self.subscriber.as_ref().expect("a subscriber").receive().expect("receive");
        match &self.sample {
            Some(sample) => ptr::from_ref::<T>(sample.payload()).cast(),
            None => ptr::null(),
        }
    }

    fn release(&mut self) {
        self.sample = None;
    }
}

/// # Safety
/// `name` is a C string.
#[no_mangle]
pub unsafe extern "C" fn pubsub_open(
    name: *const c_char,
    item: usize,
    capacity: usize,
    readers: usize,
    pops: bool,
) -> *mut Box<dyn End> {
    let name = unsafe { CStr::from_ptr(name) }.to_str().expect("a name");
    set_log_level(LogLevel::Error);
    let end: Box<dyn End> = match item {
        8 => Box::new(Ends::<u64>::open(name, capacity, readers, pops)),
        64 => Box::new(Ends::<[u64; 8]>::open(name, capacity, readers, pops)),
        256 => Box::new(Ends::<[u64; 32]>::open(name, capacity, readers, pops)),
        1024 => Box::new(Ends::<[u64; 128]>::open(name, capacity, readers, pops)),
        4096 => Box::new(Ends::<[u64; 512]>::open(name, capacity, readers, pops)),
        65536 => Box::new(Ends::<[u64; 8192]>::open(name, capacity, readers, pops)),
        _ => return ptr::null_mut(),
    };
    Box::into_raw(Box::new(end))
}

/// # Safety
/// `end` comes from `pubsub_open`; so for all below.
#[no_mangle]
pub unsafe extern "C" fn pubsub_reserve(end: *mut Box<dyn End>) -> *mut c_void {
    unsafe { &mut *end }.reserve()
}

/// # Safety
/// As `pubsub_reserve`, and the reserved item has been filled.
#[no_mangle]
pub unsafe extern "C" fn pubsub_commit(end: *mut Box<dyn End>) {
    unsafe { &mut *end }.commit();
}

/// # Safety
/// As `pubsub_reserve`.
#[no_mangle]
pub unsafe extern "C" fn pubsub_peek(end: *mut Box<dyn End>) -> *const c_void {
    unsafe { &mut *end }.peek()
}

/// # Safety
/// As `pubsub_reserve`.
#[no_mangle]
pub unsafe extern "C" fn pubsub_release(end: *mut Box<dyn End>) {
    unsafe { &mut *end }.release();
}

/// # Safety
/// As `pubsub_reserve`; `end` is gone afterwards.
#[no_mangle]
pub unsafe extern "C" fn pubsub_close(end: *mut Box<dyn End>) {
    drop(unsafe { Box::from_raw(end) });
}
