//! What a unit of Type=notify is told (sd_notify(3)). Nothing where nobody
//! listens: `$NOTIFY_SOCKET` is the only sign. A message that does not get
//! through must not stop what it is about.

use sd_notify::NotifyState;

/// The work has begun.
pub fn ready(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What is being done now.
pub fn status(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Status(status)]);
}

/// The work is being ended.
pub fn stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}

/// Still at work.
pub fn alive() {
    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
}
