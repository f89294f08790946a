// First contact with a running pair: write, be refused a read, wait for it, watch.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	diptychv1 "example.com/first-contact/gen/diptych/v1"
	shopv1 "example.com/first-contact/gen/shop/v1"
)

func main() {
	// Every call has a deadline: a read that waits for freshness answers shortly before it, at the latest.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	err := firstContact(ctx)
	cancel()
	if err != nil {
		log.Fatal(err)
	}
}

func firstContact(ctx context.Context) error {
	session := new(Session)
	command, err := dial(session, "DIPTYCH_COMMANDS", "127.0.0.1:50051")
	if err != nil {
		return err
	}
	defer command.Close()
	query, err := dial(session, "DIPTYCH_QUERY", "127.0.0.1:50052")
	if err != nil {
		return err
	}
	defer query.Close()
	projector, err := dial(session, "DIPTYCH_PROJECTOR", "127.0.0.1:50053")
	if err != nil {
		return err
	}
	defer projector.Close()

	commands := shopv1.NewCommandServiceClient(command)
	queries := shopv1.NewQueryServiceClient(query)
	readModel := diptychv1.NewReadModelServiceClient(query)
	projections := diptychv1.NewProjectionServiceClient(projector)

	// An operator pauses the projection that users are read from.
	if _, err := projections.Pause(ctx, &diptychv1.PauseRequest{Projection: "users"}); err != nil {
		return err
	}
	// However this ends, it must go on.
	defer projections.Resume(context.WithoutCancel(ctx), &diptychv1.ResumeRequest{Projection: "users"})

	// Write. The token stands for the log up to this write.
	registered, err := commands.RegisterUser(ctx, &shopv1.RegisterUserRequest{
		Email:     fmt.Sprintf("lin-%d@example.com", time.Now().UnixNano()),
		FirstName: "Lin",
	})
	if err != nil {
		return err
	}
	id := registered.GetResult().GetAggregate().GetId()
	fmt.Println("registered:", id)

	// Read at least as fresh as that. It can't be had now, and waiting would be in vain, so it is refused at once.
	fresh := &shopv1.GetUserRequest{
		UserId: id,
		Consistency: &diptychv1.Consistency{
			Requirement: &diptychv1.Consistency_AtLeastAsFresh{AtLeastAsFresh: registered.GetResult().GetToken()},
		},
	}
	_, err = queries.GetUser(ctx, fresh)
	info := errorInfo(err)
	if status.Code(err) != codes.FailedPrecondition || info.GetReason() != "READ_MODEL_PAUSED" {
		return fmt.Errorf("expected a refusal, since the projection is paused: %w", err)
	}
	fmt.Println("refused:", info.GetDomain(), info.GetReason())

	// The projection goes on, and the same read waits until it has come that far.
	if _, err := projections.Resume(ctx, &diptychv1.ResumeRequest{Projection: "users"}); err != nil {
		return err
	}
	user, err := queries.GetUser(ctx, fresh)
	if err != nil {
		return err
	}
	fmt.Println("waited:", user.GetFirstName())

	if err := watch(ctx, commands, readModel, id); err != nil {
		return err
	}

	// The session presents the token of the last write by itself, so a plain read includes it.
	user, err = queries.GetUser(ctx, &shopv1.GetUserRequest{UserId: id})
	if err != nil {
		return err
	}
	fmt.Println("read:", user.GetFirstName())
	return nil
}

// watch follows one row of the view `users`, and changes it as soon as it has seen how it stands.
func watch(
	ctx context.Context,
	commands shopv1.CommandServiceClient,
	readModel diptychv1.ReadModelServiceClient,
	id string,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // Ends the watch.
	frames, err := readModel.Watch(ctx, &diptychv1.WatchRequest{
		View: "users",
		Rows: &diptychv1.WatchRequest_Keys{Keys: &diptychv1.KeySet{Keys: []string{id}}},
	})
	if err != nil {
		return err
	}
	caughtUp := false
	for {
		answer, err := frames.Recv()
		if err != nil {
			return err
		}
		switch frame := answer.GetFrame().(type) {
		case *diptychv1.WatchResponse_Rows:
			for _, row := range frame.Rows.GetRows() {
				user := new(shopv1.User)
				if err := row.GetRow().UnmarshalTo(user); err != nil {
					return err
				}
				if caughtUp {
					fmt.Println("changed:", user.GetFirstName())
					return nil
				}
				fmt.Println("snapshot:", user.GetFirstName())
			}
		case *diptychv1.WatchResponse_CaughtUp:
			caughtUp = true
			fmt.Println("caught up")
			_, err := commands.UpdateUserProfile(ctx, &shopv1.UpdateUserProfileRequest{
				UserId:     id,
				FirstName:  "Linnea",
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"first_name"}},
			})
			if err != nil {
				return err
			}
		case *diptychv1.WatchResponse_Progress:
			// Nothing changed up to here. A resume token, if there is one, is a place to go on from.
		case *diptychv1.WatchResponse_Reset_:
			return errors.New("a long-lived watcher would forget its rows here, and take the snapshot that follows")
		}
	}
}

// errorInfo returns the reason for a refusal, which every error of Diptych carries.
func errorInfo(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

func dial(session *Session, variable, address string) (*grpc.ClientConn, error) {
	if set := os.Getenv(variable); set != "" {
		address = set
	}
	return grpc.NewClient(
		address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(session.Intercept),
	)
}
