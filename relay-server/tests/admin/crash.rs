//! A power cut in the middle of changes.

use adit_control::model::{ClientView, InviteRequest, Invited, Page};

use crate::support::Relay;

#[tokio::test]
async fn what_was_answered_is_there_after_a_kill_and_the_rest_is_whole() {
    let mut relay = Relay::start("");
    for round in 0..5 {
        let admin = relay.admin();
        let (tell, mut told) = tokio::sync::mpsc::channel(1000);
        let inviting = tokio::spawn(async move {
            for number in 0.. {
                let request = InviteRequest {
                    name: format!("r{round}-{number}"),
                    ..InviteRequest::default()
                };
                // It fails once the relay is gone.
                if admin
                    .post::<Invited>("/api/invites", &request)
                    .await
                    .is_err()
                    || tell.send(number).await.is_err()
                {
                    return;
                }
            }
        });
        for _ in 0..5 + round * 3 {
            told.recv().await.unwrap();
        }
        relay.killed();
        inviting.await.unwrap();
        let mut answered = 5 + round * 3;
        while told.recv().await.is_some() {
            answered += 1;
        }
        relay.run();
        let admin = relay.admin();
        let page: Page<ClientView> = admin.get("/api/clients?limit=1000").await.unwrap().value;
        let prefix = format!("r{round}-");
        let there = page
            .items
            .iter()
            .filter(|view| view.name.starts_with(&prefix))
            .count();
        // All that were answered, and at most the one that was on its way.
        assert!(
            (answered..=answered + 1).contains(&there),
            "{answered} answered, {there} there"
        );
    }
    relay.ends();
}
