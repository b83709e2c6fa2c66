/** What a reader of the page must know, in one sentence; everything else that is thrown is a mistake of ours. */
export class UserError extends Error {}
