use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::*;

fn bytes(n: usize) -> Bytes {
    Bytes::from(vec![7; n])
}

#[test]
fn an_acknowledged_stream_holds_nothing() {
    let now = Instant::now();
    let mut half = SendHalf::new(now);
    half.handle_sent(now, bytes(1000));
    half.handle_sent(now, bytes(500));
    assert_eq!(half.unacked(), 1500);
    assert_eq!(half.handle_ack(now, 1200), Ok(1200));
    assert_eq!(
        half.resend_from(1200)
            .unwrap()
            .iter()
            .map(Bytes::len)
            .sum::<usize>(),
        300
    );
    assert_eq!(
        half.resend_from(1400)
            .unwrap()
            .iter()
            .map(Bytes::len)
            .sum::<usize>(),
        100
    );
    assert_eq!(half.handle_ack(now, 1000), Ok(0));
    assert_eq!(half.handle_ack(now, 1500), Ok(300));
    assert_eq!(half.unacked(), 0);
    assert!(half.resend_from(1500).unwrap().is_empty());
    assert!(matches!(
        half.resend_from(100),
        Err(StreamMisbehaved::Forgotten { .. })
    ));
}

#[test]
fn an_acknowledgement_beyond_what_was_sent_accuses() {
    let now = Instant::now();
    let mut half = SendHalf::new(now);
    half.handle_sent(now, bytes(10));
    assert_eq!(
        half.handle_ack(now, 11),
        Err(StreamMisbehaved::AckBeyondSent {
            offset: 11,
            sent: 10
        })
    );
    assert_eq!(half.unacked(), 10);
}

/// Sends as much as is allowed over a link of `rate` bytes a second, in pieces that are each acknowledged after `rtt`.
fn run(rate: f64, rtt: Duration, pieces: usize) -> u64 {
    let start = Instant::now();
    let (mut now, mut link_free, mut acked) = (start, start, 0);
    let mut half = SendHalf::new(start);
    let mut under_way = VecDeque::new();
    for _ in 0..pieces {
        loop {
            let room = half
                .allowance(TUNNEL_BUDGET - half.unacked())
                .min(ACK_EVERY);
            if room == 0 {
                break;
            }
            half.handle_sent(now, bytes(room as usize));
            link_free = link_free.max(now) + Duration::from_secs_f64(room as f64 / rate);
            under_way.push_back((link_free + rtt, room));
        }
        let (arrives, length) = under_way.pop_front().unwrap();
        now = arrives;
        acked += length;
        half.handle_ack(now, acked).unwrap();
    }
    half.window()
}

#[test]
fn the_window_follows_the_bandwidth_delay_product() {
    // 25 MB/s at 40 ms: a product of 1 MB.
    let window = run(25e6, Duration::from_millis(40), 2000);
    assert!((1_000_000..8_000_000).contains(&window), "{window}");
    // A slow path keeps the smallest.
    let window = run(100e3, Duration::from_millis(40), 2000);
    assert!(window <= 3 * WINDOW_MIN, "{window}");
    // A fast and long one is bounded by the largest window and the stream's share of the budget.
    let window = run(1e9, Duration::from_millis(200), 20_000);
    assert!((WINDOW_MAX / 2..=WINDOW_MAX).contains(&window), "{window}");
}

#[test]
fn repairs_of_what_was_lost_do_not_wind_the_window_down() {
    let (rate, rtt) = (25e6, Duration::from_millis(40));
    let start = Instant::now();
    for seed in 1..=50_u64 {
        let mut random = seed;
        let (mut now, mut link_free, mut acked) = (start, start, 0);
        let mut half = SendHalf::new(start);
        let mut under_way = VecDeque::new();
        // Everything behind a lost packet waits for its repair.
        let mut in_order = start;
        let pieces = 4_000;
        for piece in 0..pieces {
            loop {
                let room = half
                    .allowance(TUNNEL_BUDGET - half.unacked())
                    .min(ACK_EVERY);
                if room == 0 {
                    break;
                }
                half.handle_sent(now, bytes(room as usize));
                link_free = link_free.max(now) + Duration::from_secs_f64(room as f64 / rate);
                // 45 packets at 1 % loss: a third of the pieces has a repair, and one in a hundred of those another.
                random = random
                    .wrapping_mul(0x5851_f42d_4c95_7f2d)
                    .wrapping_add(seed);
                let repairs = match (random >> 33) % 300 {
                    0 => 2,
                    1..100 => 1,
                    _ => 0,
                };
                in_order = in_order.max(link_free + rtt * (1 + repairs));
                under_way.push_back((in_order, room));
            }
            let (arrives, length) = under_way.pop_front().unwrap();
            now = arrives;
            acked += length;
            half.handle_ack(now, acked).unwrap();
            // The product, and as much again while repairs are waited for.
            assert!(
                piece < 100 || half.window() > 2_000_000,
                "{seed}, {piece}: {}",
                half.window()
            );
        }
        let mean = acked as f64 / (now - start).as_secs_f64();
        assert!(mean > 0.95 * rate, "{seed}: {mean}");
    }
}

#[test]
fn stalled_readers_leave_budget_for_the_next() {
    let now = Instant::now();
    let mut free = TUNNEL_BUDGET;
    for _ in 0..500 {
        let mut stalled = SendHalf::new(now);
        loop {
            let room = stalled.allowance(free);
            if room == 0 {
                break;
            }
            let room = room.min(64 * 1024);
            stalled.handle_sent(now, bytes(room as usize));
            free -= room;
        }
    }
    assert!(
        SendHalf::new(now).allowance(free) >= GRANT_MIN,
        "{free} left"
    );
}

#[test]
fn the_receiver_bounds_what_waits_and_knows_the_end() {
    let mut half = RecvHalf::new();
    half.handle_data(WINDOW_MAX).unwrap();
    assert!(matches!(
        half.handle_data(1),
        Err(StreamMisbehaved::WindowExceeded { .. })
    ));

    let mut half = RecvHalf::new();
    half.handle_data(100).unwrap();
    assert!(!half.owes_ack());
    half.handle_delivered(60);
    assert!(half.owes_ack() && !half.owes_ack_now());
    assert_eq!(half.poll_ack(), Some(60));
    assert_eq!(half.poll_ack(), None);
    assert!(matches!(
        half.handle_fin(99),
        Err(StreamMisbehaved::WrongFinalOffset { .. })
    ));
    half.handle_fin(100).unwrap();
    assert!(!half.is_complete());
    half.handle_delivered(40);
    assert!(half.is_complete() && half.owes_ack_now());
    assert_eq!(half.handle_data(1), Err(StreamMisbehaved::DataAfterFin));
}

#[test]
fn much_data_is_acknowledged_at_once() {
    let mut half = RecvHalf::new();
    half.handle_data(ACK_EVERY).unwrap();
    half.handle_delivered(ACK_EVERY);
    assert!(half.owes_ack_now());
}

#[test]
fn an_acknowledgement_that_a_lost_channel_may_have_swallowed_is_owed_anew() {
    let mut half = RecvHalf::new();
    half.handle_channel_lost();
    assert!(!half.owes_ack(), "nothing came yet");
    half.handle_data(100).unwrap();
    half.handle_delivered(60);
    assert_eq!(half.poll_ack(), Some(60));
    half.handle_channel_lost();
    assert!(half.owes_ack());
    assert_eq!(half.poll_ack(), Some(60));
    assert_eq!(half.poll_ack(), None);
}
