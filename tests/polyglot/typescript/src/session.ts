import * as grpc from "@grpc/grpc-js";

const TOKEN = "diptych-token";

/**
 * Lets its calls read what they wrote, without touching a message: every answer, refusals too, has a token in its
 * trailers, and every call presents the latest.
 */
export class Session {
  private token = "";

  /** For the `interceptors` of the clients that share the session. */
  readonly interceptor: grpc.Interceptor = (options, nextCall) =>
    new grpc.InterceptingCall(nextCall(options), {
      start: (metadata, _, next) => {
        if (this.token) metadata.set(TOKEN, this.token);
        const listener = new grpc.ListenerBuilder().withOnReceiveStatus((status, next) => {
          for (const token of status.metadata.get(TOKEN)) this.keep(token.toString());
          next(status);
        });
        next(metadata, listener.build());
      },
    });

  private keep(token: string): void {
    // Of two tokens of one log the greater string is the later.
    if (token > this.token) this.token = token;
  }
}
