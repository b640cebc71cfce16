//! The store from outside: what goes in comes out, whatever happens in between.

mod compare;
mod damage;
mod faults;
mod mount;
mod rootfs;
