//! Questions of peers, from their streams to the provider and back.

use super::frames::READ_WITHIN;
use super::{Asker, FRAMES, Provider};
use base::{NodeId, Reject, Wire};
use market::{FRAME_MAX, Frame, Reason, Say};
use std::pin::Pin;
use tokio::sync::mpsc;

/// After its question a client sends vouchers, and that it stops: both are shorter than this.
const SAY_MAX: usize = 1_024;

impl net::Answerer for Provider {
    fn frame_max(&self) -> (usize, usize) {
        (FRAME_MAX, SAY_MAX)
    }

    fn answer(&self, by: NodeId, first: Vec<u8>, talk: net::Talk) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let net::Talk { mut say, mut hear, origin, room } = talk;
            let request = match market::Say::from_bytes(&first) {
                Ok(Say::Ask { request }) if !self.is_public() => {
                    let reason = Reason::Model(request.ask.model);
                    let _ = say.frame(&Frame::Refused { reason }.to_bytes()).await;
                    return say.finish();
                }
                Ok(Say::Ask { request }) => request,
                _ => return self.refuse(Reject::Malformed),
            };
            // It is all in the request: megabytes, for as long as an answer takes.
            drop(first);
            let asker = Asker { by, origin: Some(origin), room };
            let (out, mut frames) = mpsc::channel::<Frame>(FRAMES);
            let (sender, says) = mpsc::channel(FRAMES);
            // Owns the frames: when it ends, whoever makes them notices.
            let sending = async move {
                while let Some(frame) = frames.recv().await {
                    let bytes = frame.to_bytes();
                    drop(frame);
                    let sent = tokio::time::timeout(READ_WITHIN, say.frame(&bytes)).await;
                    if !matches!(sent, Ok(Ok(()))) {
                        return;
                    }
                }
                say.finish();
            };
            // What it said before it left is still heard.
            let hearing = async {
                let sender = sender;
                while let Ok(Some(bytes)) = hear.frame().await {
                    match market::Say::from_bytes(&bytes) {
                        Ok(said @ (Say::Pay { .. } | Say::Stop {})) => {
                            if sender.send(said).await.is_err() {
                                break;
                            }
                        }
                        _ => return self.refuse(Reject::Malformed),
                    }
                }
            };
            let heard = async {
                hearing.await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                _ = async { tokio::join!(self.answer_to(asker, request, out, says), sending) } => {}
                () = heard => {}
            }
        })
    }
}
