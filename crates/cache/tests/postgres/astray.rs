//! A listening connection that is sound and leads to another server than the one that is spoken to, as a floating address may.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use paystrata_cache::{
    backplane::{Backplane, Heard, Interruption},
    postgres::{PostgresOptions, PostgresTier},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::{
    ear::{Note, Notebook},
    server::{Bed, LIMIT, Private, until},
};

/// An address whose new connections lead to `target`. Gives its port.
async fn floating(target: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let port = target.load(SeqCst);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                // However it ends.
                let _ended = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

fn port_of(server: &Private) -> u16 {
    server.config().get_ports()[0]
}

/// Ends the listening connection. What it said last is `LISTEN` or, once it was quiet for a while, nothing at all; one that has yet to
/// say its first word looks the same but for the time of it.
const END_EAR: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
    WHERE backend_type = 'client backend' AND query_start IS NOT NULL AND (query LIKE 'LISTEN%' OR query = '')";

#[tokio::test]
async fn ear_that_hears_another_server_is_noticed_by_the_pulses_and_led_back() {
    let (server, stranger) = (Private::start().await, Private::start().await);
    let (bed, strange) = (Bed::on(server.config()).await, Bed::on(stranger.config()).await);
    let target = Arc::new(AtomicU16::new(port_of(&server)));
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(floating(Arc::clone(&target)).await).user("postgres").dbname("postgres");
    let options = PostgresOptions {
        schema: bed.schema.clone(),
        command_timeout: LIMIT,
        connect_timeout: LIMIT,
        silence_max: Duration::from_millis(100),
        ..PostgresOptions::default()
    };
    let tier = PostgresTier::connect(config, options).unwrap();
    let line = tier.line("c");
    let ear = Notebook::on(&line).await;
    target.store(port_of(&stranger), SeqCst);
    assert_eq!(bed.count(END_EAR).await, 1);
    let interruptions = || {
        let told = |note: &Note| matches!(note, Note::Interrupted(_));
        ear.notes().into_iter().filter(told).collect::<Vec<_>>()
    };
    let [lost, subscribed] = [Interruption::Lost, Interruption::Subscribed].map(Note::Interrupted);
    let astray = [subscribed.clone(), lost.clone(), subscribed];
    until(async || interruptions() == astray).await;
    // It hears something there, too.
    let beat = Bytes::from_static(b"beat");
    let speaking = async {
        loop {
            line.pulse(&beat).await.unwrap();
            let noise = format!("SELECT pg_notify('{}', 'P|1|1|00|c')", bed.schema);
            strange.run(&noise).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = speaking => {}
        () = until(async || interruptions().get(astray.len()) == Some(&lost)) => {}
    }
    target.store(port_of(&server), SeqCst);
    until(async || {
        let mark = line.pulse(&beat).await.unwrap();
        ear.notes().contains(&Note::Heard(Heard::Pulse { mark, body: beat.clone() }))
    })
    .await;
}
