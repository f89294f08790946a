// First contact with a running pair: write, be refused a read, wait for it, watch.
import * as grpc from "@grpc/grpc-js";

import { ProjectionServiceClient } from "../gen/diptych/v1/projections";
import { ReadModelServiceClient, WatchRequest, WatchResponse } from "../gen/diptych/v1/read_model";
import { ErrorInfo } from "../gen/google/rpc/error_details";
import { Status } from "../gen/google/rpc/status";
import { CommandServiceClient } from "../gen/shop/v1/command_service";
import { QueryServiceClient } from "../gen/shop/v1/query_service";
import { RegisterUserRequest, UpdateUserProfileRequest } from "../gen/shop/v1/user_commands";
import { GetUserRequest } from "../gen/shop/v1/user_queries";
import { User } from "../gen/shop/v1/users";
import { Session } from "./session";

const session = new Session();
const options: grpc.ClientOptions = { interceptors: [session.interceptor] };
const credentials = grpc.credentials.createInsecure();
const commandAddress = process.env.DIPTYCH_COMMANDS ?? "127.0.0.1:50051";
const queryAddress = process.env.DIPTYCH_QUERY ?? "127.0.0.1:50052";
const projectorAddress = process.env.DIPTYCH_PROJECTOR ?? "127.0.0.1:50053";

const commands = new CommandServiceClient(commandAddress, credentials, options);
const queries = new QueryServiceClient(queryAddress, credentials, options);
const readModel = new ReadModelServiceClient(queryAddress, credentials, options);
const projections = new ProjectionServiceClient(projectorAddress, credentials, options);

async function firstContact(): Promise<void> {
  // An operator pauses the projection that users are read from.
  await call(projections, projections.pause, { projection: "users" });
  try {
    // Write. The token stands for the log up to this write.
    const registered = await call(
      commands,
      commands.registerUser,
      RegisterUserRequest.fromPartial({ email: `lin-${process.hrtime.bigint()}@example.com`, firstName: "Lin" }),
    );
    const userId = registered.result?.aggregate?.id ?? "";
    console.log("registered:", userId);

    // Read at least as fresh as that. It can't be had now, and waiting would be in vain, so it is refused at once.
    const fresh = GetUserRequest.fromPartial({
      userId,
      consistency: { requirement: { $case: "atLeastAsFresh", value: registered.result?.token ?? "" } },
    });
    const refusal = await call(queries, queries.getUser, fresh).then(
      () => undefined,
      (error: grpc.ServiceError) => error,
    );
    const info = refusal && errorInfo(refusal);
    if (refusal?.code !== grpc.status.FAILED_PRECONDITION || info?.reason !== "READ_MODEL_PAUSED") {
      throw refusal ?? new Error("a read of a projection that is paused was answered");
    }
    console.log("refused:", info.domain, info.reason);

    // The projection goes on, and the same read waits until it has come that far.
    await call(projections, projections.resume, { projection: "users" });
    console.log("waited:", (await call(queries, queries.getUser, fresh)).firstName);

    await watch(userId);

    // The session presents the token of the last write by itself, so a plain read includes it.
    const user = await call(queries, queries.getUser, GetUserRequest.fromPartial({ userId }));
    console.log("read:", user.firstName);
  } finally {
    // However this ended, it must go on.
    await call(projections, projections.resume, { projection: "users" });
  }
}

/** Follows one row of the view `users`, and changes it as soon as it has seen how it stands. */
async function watch(userId: string): Promise<void> {
  const request = WatchRequest.fromPartial({ view: "users", rows: { $case: "keys", value: { keys: [userId] } } });
  const frames = readModel.watch(request, { deadline: soon() });
  let caughtUp = false;
  // Leaving the loop cancels the call.
  for await (const { frame } of frames as AsyncIterable<WatchResponse>) {
    switch (frame?.$case) {
      case "rows":
        for (const { content } of frame.value.rows) {
          if (content?.$case !== "row") continue; // It was deleted.
          const user = User.decode(content.value.value);
          console.log(caughtUp ? "changed:" : "snapshot:", user.firstName);
          if (caughtUp) return;
        }
        break;
      case "caughtUp":
        caughtUp = true;
        console.log("caught up");
        await call(
          commands,
          commands.updateUserProfile,
          UpdateUserProfileRequest.fromPartial({ userId, firstName: "Linnea", updateMask: ["first_name"] }),
        );
        break;
      case "progress":
        break; // Nothing changed up to here. A resume token, if there is one, is a place to go on from.
      case "reset":
        throw new Error("a long-lived watcher would forget its rows here, and take the snapshot that follows");
    }
  }
}

/** The reason for a refusal, which every error of Diptych carries. */
function errorInfo(error: grpc.ServiceError): ErrorInfo | undefined {
  for (const bytes of error.metadata.get("grpc-status-details-bin")) {
    for (const detail of Status.decode(bytes as Buffer).details) {
      if (detail.typeUrl.endsWith("/google.rpc.ErrorInfo")) return ErrorInfo.decode(detail.value);
    }
  }
  return undefined;
}

/** A unary call as a promise. */
function call<Request, Answer>(
  client: grpc.Client,
  method: (
    request: Request,
    metadata: grpc.Metadata,
    options: Partial<grpc.CallOptions>,
    callback: (error: grpc.ServiceError | null, answer: Answer) => void,
  ) => grpc.ClientUnaryCall,
  request: Request,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    method.call(client, request, new grpc.Metadata(), { deadline: soon() }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

/** Every call has a deadline: a read that waits for freshness answers shortly before it, at the latest. */
function soon(): Date {
  return new Date(Date.now() + 30_000);
}

firstContact().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
